# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# ./run linux: Debian's own Linux as a guest of the library, under Bochs. Kernel and busybox are
# data in the user's cache, and never part of this project. Sourced after lib.sh and setup.sh.

readonly LINUX_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/libtdp/linux
readonly LINUX_META_PACKAGE=linux-image-cloud-amd64
readonly LINUX_DEMO=examples/linux

# The newest kernel's package, by its version; nothing if apt does not know.
linux_kernel_package() {
  apt-cache depends "$LINUX_META_PACKAGE" 2>/dev/null |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -1
}

# fetch_linux_guest: prints the directory that has vmlinuz and initramfs; fails where Debian's
# packages cannot be had.
fetch_linux_guest() {
  local kernel dir
  kernel=$(linux_kernel_package)
  if [[ -z $kernel ]]; then
    as_root apt-get update -q >/dev/null 2>&1 || true # names are known only after an update
    kernel=$(linux_kernel_package)
  fi
  # Without a network the newest kernel of an earlier run will do.
  [[ -n $kernel ]] ||
    kernel=$(cd "$LINUX_CACHE" 2>/dev/null && printf '%s\n' linux-image-* | sort -V | tail -1)
  [[ -n $kernel ]] || return 1
  dir=$LINUX_CACHE/$kernel
  if [[ ! -f $dir/vmlinuz || ! -f $dir/busybox ]]; then
    say "fetching Debian's $kernel and busybox-static"
    download_linux_guest "$kernel" "$dir" || return 1
  fi
  python3 "$LINUX_DEMO/make_initramfs.py" "$dir/busybox" "$LINUX_DEMO/init.sh" \
    "$dir/initramfs.new" && mv "$dir/initramfs.new" "$dir/initramfs" || return 1
  printf '%s\n' "$dir"
}

# Unpacks aside and renames, so that an interrupted download leaves no half a guest.
download_linux_guest() {
  local kernel=$1 dir=$2 work package
  work=$(mktemp -d)
  (
    cd "$work" &&
      apt-get -q -o APT::Sandbox::User=root download "$kernel" busybox-static >/dev/null &&
      for package in *.deb; do dpkg-deb -x "$package" unpacked || exit 1; done &&
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

# linux [SCENARIO [NAME=VALUE…]]: see docs/linux.md.
linux() {
  local dir
  setup_build "${VTX_PACKAGES[@]}"
  build_opt "//$LINUX_DEMO"
  if [[ $# == 0 ]]; then
    "bazel-bin/$LINUX_DEMO/linux" scenario=list || true
    printf 'matrix: boot and copies of memory on every CPU model that carries them (long)\n'
    return
  fi
  dir=$(fetch_linux_guest) ||
    die "Debian's $LINUX_META_PACKAGE and busybox-static cannot be had" \
      "check the network and /etc/apt, and run the command again"
  if [[ $1 == matrix ]]; then
    linux_matrix "$dir"
  else
    boot_linux "$dir" "$@"
  fi
}

# boot_linux DIR SCENARIO [NAME=VALUE…]: as many CPUs as the scenario needs.
boot_linux() {
  local dir=$1 scenario=$2 options
  shift 2
  options=(--cpus=1 --cpu-model="${LINUX_MODEL:-tigerlake}")
  case $scenario in *torture | control-untold | control-kick) options[0]=--cpus=2 ;; esac
  TDP_BOCHS_OPTIONS=$(linux_options "$dir" "${options[@]}") \
    nice "bazel-bin/$LINUX_DEMO/linux" "scenario=$scenario" "$@"
}

# CPUs with and without A/D bits, PML and 1G pages; each line is a model and what runs on it.
readonly LINUX_MATRIX=(
  "tigerlake boot dirty-protect dirty-bits dirty-pml dirty-ring migration watch torture"
  "tigerlake shadow shadow-migration shadow-torture"
  "tigerlake control-untold control-kick control-pml"
  "corei5_lynnfield_750 boot shadow"
  "corei7_ivy_bridge_3770k boot dirty-protect shadow"
  "corei7_haswell_4770 boot dirty-bits migration"
  "corei7_skylake_x boot dirty-pml torture"
)

linux_matrix() {
  local dir=$1 line model scenario failed=0
  for line in "${LINUX_MATRIX[@]}"; do
    model=${line%% *}
    for scenario in ${line#* }; do
      if LINUX_MODEL=$model boot_linux "$dir" "$scenario" >"$LINUX_CACHE/last-run" 2>&1; then
        printf 'PASS  %-26s %s\n' "$model" "$scenario"
      else
        printf 'FAIL  %-26s %s\n' "$model" "$scenario"
        tail -5 "$LINUX_CACHE/last-run"
        failed=1
      fi
    done
  done
  return "$failed"
}
