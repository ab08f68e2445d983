# Sourced by the scripts that run parts, at the top of the project. It runs all of them, says of each whether it is ok, FAILED
# or skipped, and ends with summary. A part that cannot run on this machine is skipped; with CI=true it fails. What is missing
# is installed where that is possible: with apt-get, as root on Debian and its like, and with npm inside the project.
#
# A new part is a line: part NAME COMMAND…, where COMMAND may be a function that calls need_node or skip.

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
passed=0 failed=0 skipped=0

# part NAME COMMAND… runs COMMAND in a subshell that ends at the first error, and enters the result in the summary.
part() {
	local name=$1 start=$SECONDS status result reason
	shift
	printf '\n== %s\n' "$name"
	rm -f "$tmp/reason"
	(
		set -e -o pipefail
		"$@"
	)
	status=$?
	reason=$(cat "$tmp/reason" 2>/dev/null)
	if [ -n "$reason" ] && [ "${CI:-}" != true ]; then
		result=skipped skipped=$((skipped + 1))
	elif [ "$status" = 0 ] && [ -z "$reason" ]; then
		result=ok passed=$((passed + 1))
	else
		result=FAILED failed=$((failed + 1))
	fi
	printf '%-8s %4d s  %s%s\n' "$result" "$((SECONDS - start))" "$name" "${reason:+: $reason}" | tee -a "$tmp/summary"
}

# skip REASON ends the part: it cannot run on this machine.
skip() {
	echo "$*" >"$tmp/reason"
	exit 1
}

# first TOOL… prints the path of the first tool that is installed.
first() {
	local tool
	for tool; do
		command -v "$tool" && return
	done
	return 1
}

# install PACKAGE… installs Debian packages, where that is possible.
install() {
	[ "$(id -u)" = 0 ] && [ -e /etc/debian_version ] && command -v apt-get >/dev/null || return 1
	echo "installing with apt-get: $*"
	{
		apt-get update -q &&
			DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
	} >"$tmp/apt.log" 2>&1 </dev/null || {
		tail -n 5 "$tmp/apt.log"
		return 1
	}
}

need_node() {
	first node >/dev/null || skip "no Node"
	[ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] || skip "Node older than 20"
}

need_npm() {
	need_node
	first npm >/dev/null || skip "no npm"
}

# need_browser VARIABLE PACKAGE COMMAND… finds a browser by its commands, or installs the package, and exports its path as
# VARIABLE.
need_browser() {
	local variable=$1 package=$2 browser
	shift 2
	browser=${!variable:-$(first "$@")} || {
		install "$package" || skip "no $1, and apt-get cannot install it here"
		browser=$(first "$@") || skip "no $1 in the package that apt-get installed"
	}
	"$browser" --version || skip "$browser does not start"
	export "$variable=$browser"
}

need_chromium() { need_browser CHROMIUM chromium chromium chromium-browser google-chrome google-chrome-stable; }

need_firefox() { need_browser FIREFOX firefox-esr firefox-esr firefox; }

# need_webkit finds or installs WebKitGTK's driver, which brings its browser, and the screen that needs.
need_webkit() {
	{ first WebKitWebDriver && first Xvfb; } >/dev/null || install webkit2gtk-driver xvfb ||
		skip "no WebKitWebDriver and Xvfb, and apt-get cannot install them here"
}

# bounded SECONDS COMMAND… ends COMMAND and what it started after that time, where the system has timeout(1).
bounded() {
	if ! first timeout >/dev/null; then
		shift
		"$@"
		return
	fi
	timeout -k 10 "$@" & # leads a process group of its own, which an interrupt from the terminal does not reach
	trap "kill $!" INT TERM
	wait $!
}

# core_tests GOOS RUNNER… runs core's tests as GOOS/wasm under Node. Those of coretest
# need real sockets.
core_tests() {
	local os=$1 runner
	shift
	need_node
	# Go's js runtime accepts 8 KiB of arguments and environment together: pass on what tests need.
	runner=$(printf "'%s' " env -i "PATH=$PATH" "HOME=${HOME:-/}" "TMPDIR=${TMPDIR:-/tmp}" "$@")
	GOOS=$os GOARCH=wasm go test -v -count=1 -timeout 5m -exec "$runner" ./core | awk -f .ci/gotest.awk
}

# summary ends the script: with 1 if a part has failed.
summary() {
	printf '\n'
	cat "$tmp/summary"
	echo "$passed passed, $failed failed, $skipped skipped"
	[ "$failed" = 0 ]
	exit
}
