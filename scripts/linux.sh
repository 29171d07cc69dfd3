# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# ./run linux: Debian's own Linux as a guest of the library, under Bochs. Kernel and busybox are
# data in the user's cache, and never part of this project. Sourced after lib.sh and setup.sh.

readonly LINUX_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/libtdp/linux
readonly LINUX_KERNEL=cloud-amd64 # linux-image-NAME; 686 and 686-pae are of i386
readonly LINUX_DEMO=examples/linux

# linux_apt KERNEL COMMAND ARGUMENT…: apt-get or apt-cache for the kernel's architecture. i386 has
# lists of packages of its own in the cache: the machine's stay as they are.
linux_apt() {
  local kernel=$1 command=$2 options=(-q -o APT::Sandbox::User=root)
  shift 2
  if [[ $kernel == 686* ]]; then
    mkdir -p "$LINUX_CACHE/apt/lists/partial" "$LINUX_CACHE/apt/archives/partial"
    options+=(-o APT::Architecture=i386 -o APT::Architectures::=i386
      -o "Dir::State::Lists=$LINUX_CACHE/apt/lists" -o "Dir::Cache=$LINUX_CACHE/apt")
  fi
  "$command" "${options[@]}" "$@"
}

linux_apt_update() {
  if [[ $1 == 686* ]]; then linux_apt "$1" apt-get update; else as_root apt-get update -q; fi
}

# linux_kernel_package KERNEL: the newest one's package, by its version; nothing if apt does not
# know.
linux_kernel_package() {
  linux_apt "$1" apt-cache depends "linux-image-$1" 2>/dev/null |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -1
}

# fetch_linux_guest KERNEL: prints the directory that has vmlinuz and initramfs; fails where
# Debian's packages cannot be had.
fetch_linux_guest() {
  local package dir
  package=$(linux_kernel_package "$1")
  if [[ -z $package ]]; then
    linux_apt_update "$1" >/dev/null 2>&1 || true # names are known only after an update
    package=$(linux_kernel_package "$1")
  fi
  # Without a network the newest kernel of an earlier run will do.
  [[ -n $package ]] || package=$(cd "$LINUX_CACHE" 2>/dev/null &&
    compgen -G "linux-image-[0-9]*[0-9]-$1" | sort -V | tail -1)
  [[ -n $package ]] || return 1
  dir=$LINUX_CACHE/$package
  if [[ ! -f $dir/vmlinuz || ! -f $dir/busybox ]]; then
    say "fetching Debian's $package and busybox-static"
    download_linux_guest "$1" "$package" "$dir" || return 1
  fi
  python3 "$LINUX_DEMO/make_initramfs.py" "$dir/busybox" "$LINUX_DEMO/init.sh" \
    "$dir/initramfs.new" && mv "$dir/initramfs.new" "$dir/initramfs" || return 1
  printf '%s\n' "$dir"
}

# Unpacks aside and renames, so that an interrupted download leaves no half a guest.
download_linux_guest() {
  local kernel=$1 package=$2 dir=$3 work file
  work=$(mktemp -d)
  (
    cd "$work" &&
      linux_apt "$kernel" apt-get download "$package" busybox-static >/dev/null &&
      for file in *.deb; do dpkg-deb -x "$file" unpacked || exit 1; done &&
      mkdir guest && mv unpacked/boot/vmlinuz-* guest/vmlinuz &&
      mv unpacked/bin/busybox guest/busybox
  ) && mkdir -p "$LINUX_CACHE" && rm -rf "$dir" && mv "$work/guest" "$dir"
  local status=$?
  rm -rf "$work"
  return "$status"
}

# linux_options DIR [OPTION…]: what run_bochs.py is to know; names without spaces.
linux_options() {
  local dir=$1
  shift
  printf '%s ' "--file=kernel=$dir/vmlinuz" "--file=initramfs=$dir/initramfs" "$@"
}

# linux [SCENARIO [NAME=VALUE…]]: see docs/linux.md. kernel=NAME takes another of Debian's.
linux() {
  local dir kernel=$LINUX_KERNEL arguments=() argument
  setup_build "${VTX_PACKAGES[@]}"
  build_opt "//$LINUX_DEMO"
  if [[ $# == 0 ]]; then
    "bazel-bin/$LINUX_DEMO/linux" scenario=list || true
    printf 'matrix: the scenarios on every CPU model and kernel that carries them (long)\n'
    return
  fi
  if [[ $1 == matrix ]]; then
    linux_matrix
    return
  fi
  for argument in "$@"; do
    if [[ $argument == kernel=* ]]; then
      kernel=${argument#*=}
    else
      arguments+=("$argument")
    fi
  done
  dir=$(linux_guest_or_die "$kernel") || exit 1
  boot_linux "$dir" "${arguments[@]}"
}

linux_guest_or_die() {
  fetch_linux_guest "$1" || die "Debian's linux-image-$1 and busybox-static cannot be had" \
    "check the network and /etc/apt, and run the command again"
}

# boot_linux DIR SCENARIO [NAME=VALUE…]: as many CPUs as the scenario needs.
boot_linux() {
  local dir=$1 scenario=$2 options
  shift 2
  options=(--cpus=1 --cpu-model="${LINUX_MODEL:-tigerlake}")
  case $scenario in
    smp-torture) options[0]=--cpus=3 ;;
    smp | *torture | control-untold | control-kick) options[0]=--cpus=2 ;;
  esac
  TDP_BOCHS_OPTIONS=$(linux_options "$dir" "${options[@]}") \
    nice "bazel-bin/$LINUX_DEMO/linux" "scenario=$scenario" "$@"
}

# CPUs with and without A/D bits, PML, unrestricted guest and 1G pages; each line is a model, and
# what runs on it: SCENARIO, or SCENARIO:KERNEL.
readonly LINUX_MATRIX=(
  "tigerlake boot dirty-protect dirty-bits dirty-pml dirty-ring snapshot migration watch torture"
  "tigerlake smp smp-torture shadow shadow-migration shadow-torture"
  "tigerlake boot:686 boot:686-pae shadow:686 shadow:686-pae"
  "tigerlake control-untold control-kick control-pml"
  "corei5_lynnfield_750 boot shadow"
  "corei7_ivy_bridge_3770k boot dirty-protect shadow boot:686-pae"
  "corei7_haswell_4770 boot dirty-bits migration"
  "corei7_skylake_x boot dirty-pml smp torture"
)

linux_matrix() {
  local line model run failed=0
  for line in "${LINUX_MATRIX[@]}"; do
    model=${line%% *}
    for run in ${line#* }; do
      linux_matrix_run "$model" "$run" || failed=1
    done
  done
  return "$failed"
}

# linux_matrix_run MODEL SCENARIO[:KERNEL]: its table goes to the cache, one line of it to stdout.
linux_matrix_run() {
  local model=$1 scenario=${2%%:*} kernel=$LINUX_KERNEL dir verdict=PASS log
  [[ $2 != *:* ]] || kernel=${2#*:}
  dir=$(linux_guest_or_die "$kernel") || exit 1
  log=$LINUX_CACHE/$model-$scenario-$kernel.log
  LINUX_MODEL=$model boot_linux "$dir" "$scenario" >"$log" 2>&1 || verdict=FAIL
  printf '%s  %-24s %-16s %-12s' "$verdict" "$model" "$scenario" "$kernel"
  awk '$1 == "exits" { e = $2 } $1 == "ticks" { t = $2 } /^faults answered/ { f = $3 }
    END { printf " %8d faults %8d exits %6d M ticks\n", f, e, t / 1e6 }' "$log"
  [[ $verdict == PASS ]] || { tail -5 "$log"; return 1; }
}
