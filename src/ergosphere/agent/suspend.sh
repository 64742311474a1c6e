#!/bin/sh
# CRIU's action script at restore: puts the restored tree into a frozen cgroup before its first instruction.
# At "pre-resume" every task is back and held by CRIU. CRIU_SUSPEND_GROUP is the (already frozen) group's directory.
# CRIU itself is not in the tree, so it is not held, and finishes.
#
# CRIU gives up the restore when a script fails at an early stage, but at "pre-resume" it only says so and lets the
# tree run. So the group is looked at early, and a tree that could not be moved is ended before it runs.
[ -n "$CRIU_SUSPEND_GROUP" ] || exit 0

hold() { # PID: it, then all its descendants. One process may have children of several of its threads.
	echo "$1" >"$CRIU_SUSPEND_GROUP/cgroup.procs" || [ ! -e "/proc/$1/task" ] || return 1
	for list in /proc/"$1"/task/*/children; do
		children=
		read -r children <"$list" 2>/dev/null
		for child in $children; do
			hold "$child" || return 1
		done
	done
}

end() { # PID: all its descendants, then itself.
	for list in /proc/"$1"/task/*/children; do
		children=
		read -r children <"$list" 2>/dev/null
		for child in $children; do
			end "$child"
		done
	done
	kill -KILL "$1" 2>/dev/null
}

frozen() {
	grep -q 'frozen 1' "$CRIU_SUSPEND_GROUP/cgroup.events" 2>/dev/null ||
		grep -q FROZEN "$CRIU_SUSPEND_GROUP/freezer.state" 2>/dev/null
}

case $CRTOOLS_SCRIPT_ACTION in
pre-restore) frozen ;;
pre-resume) frozen && hold "$CRTOOLS_INIT_PID" || {
	# CRIU holds them still, so none runs before its signal; it would wait for ever for the dead, and goes last.
	end "$CRTOOLS_INIT_PID"
	kill -KILL "$PPID"
	exit 1
} ;;
esac
