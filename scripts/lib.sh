# SPDX-License-Identifier: Apache-2.0
#
# What the scripts share. Sourced, with the root of the checkout as working directory.

say() { printf '%s\n' "== $*" >&2; }

# die WHAT NEXT: what failed and, on the same line, what to do about it.
die() {
  printf './run: %s; %s\n' "$1" "$2" >&2
  exit 1
}

# phase NAME COMMAND…: runs the command and notes the seconds it took for print_phases.
PHASES=()
phase() {
  local name=$1 start=$SECONDS status=0
  shift
  say "$name"
  "$@" || status=$?
  PHASES+=("$(printf '%5d s  %s' $((SECONDS - start)) "$name")")
  return "$status"
}

print_phases() {
  printf 'Where the time went:\n'
  printf '%s\n' "${PHASES[@]}"
}
