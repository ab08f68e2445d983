# Condenses the output of `go test -v`. Of a package that passed, it shows the result line, what its tests logged and which
# of them were skipped; of one that failed, everything but its passing tests. The last line counts.

/^=== / { header = $0; next }
/^ *--- PASS: / { passed++; next }
/^ *--- FAIL: / { failed++ }
/^ *--- SKIP: / { skipped++ }
/^(PASS|FAIL)$/ || /^\?/ { next }

/^ok  \t/ { packages++; report(0); next }
/^FAIL\t/ { packages++; report(1); next }

{
	# The test that wrote the lines which follow.
	if (header != "") line[n++] = header
	header = ""
	line[n++] = $0
}

function report(all,    i, logged) {
	print
	for (i = 0; i < n; i++) {
		logged = line[i] ~ /^ +[^ ]+\.go:[0-9]+: / || (logged && line[i] ~ /^        /)
		if (all || logged || line[i] ~ /^ *--- SKIP: /) print line[i]
	}
	n = 0
	header = ""
	fflush()
}

END {
	if (n > 0) { $0 = "unfinished:"; report(1) }
	printf "%d packages; tests, subtests included: %d passed, %d failed, %d skipped\n", packages, passed, failed, skipped
}
