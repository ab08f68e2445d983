# Shared by the scripts beside it, which run at the top of the project.

export GOWORK=off # the modules are tested as their users get them
# A checkout owned by another user, as in many containers, has no readable version to stamp.
export GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false"

# project_files NAME lists the files of that name or pattern, without dependencies and build output.
project_files() {
	find . \( -name .git -o -name node_modules -o -name dist -o -name testdata \) -prune \
		-o -type f -name "$1" -print | sort
}

# modules lists the directories of all Go modules.
modules() {
	project_files go.mod | sed 's,/go\.mod$,,'
}

# each_module COMMAND… runs COMMAND in every module that has packages for GOOS, and fails if one of the runs did.
each_module() {
	local module packages status=0
	for module in $(modules); do
		packages=$(cd "$module" && go list ./...) || status=1
		[ -z "$packages" ] || (cd "$module" && "$@") || status=1
	done
	return "$status"
}
