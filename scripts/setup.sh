# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# Set-up for Debian 12: installs what a command needs, and unpacks the sources that WORKSPACE names
# into .deps/. Every command of ./run begins with it; when all is there it takes a fraction of a
# second. Sourced after lib.sh.

readonly BUILD_PACKAGES=(
  bazel-bootstrap bazel-platforms bazel-rules-java bazel-rules-proto bazel-skylib
  ca-certificates g++ git liblzma-dev libzstd-dev nlohmann-json3-dev python3
  xz-utils zlib1g-dev zstd
)
readonly FORMAT_PACKAGES=(clang-format-14)
readonly TIDY_PACKAGES=(clang-tidy-14 clang-14)
readonly FUZZ_PACKAGES=(clang-14 libclang-rt-14-dev llvm-14)
readonly RECORD_PACKAGES=(valgrind)
readonly COUNT_PACKAGES=(valgrind python3)
readonly MAN_PACKAGES=(help2man)
readonly VTX_PACKAGES=(bochs bochs-term bochsbios vgabios util-linux)
readonly DOCS_PACKAGES=(doxygen graphviz)
# It opens the pages that `tdp report` makes, in tests.
readonly BROWSER_PACKAGES=(chromium)
readonly MODEL_PACKAGES=(spin gcc relacy-dev)

readonly SOURCES=(abseil googletest benchmark)
readonly SOURCE_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/libtdp/sources

# require PACKAGE…: installs those that are missing.
require() {
  local missing
  missing=$(missing_packages "$@")
  [[ -z $missing ]] && return
  command -v apt-get >/dev/null ||
    die "this is not Debian and these are missing: ${missing//$'\n'/ }" \
      "install them by hand, or build with Bazel 7 or newer, which downloads what it needs"
  say "installing ${missing//$'\n'/ }"
  # shellcheck disable=SC2086
  as_root apt-get update -q >/dev/null &&
    as_root env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -q --no-install-recommends $missing >/dev/null ||
    die "apt-get could not install ${missing//$'\n'/ }" \
      "see its message above, check the network and /etc/apt, and run the command again"
}

missing_packages() {
  local package
  # A package that dpkg has never heard of is named on stderr only; hence the comparison.
  comm -23 <(printf '%s\n' "$@" | sort -u) \
    <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
      sed -n 's/^installed //p' | sort -u)
}

as_root() {
  if [[ $(id -u) == 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "installing packages takes root and there is no sudo" "run './run setup' as root once"
  fi
}

# fetch_sources: .deps/NAME for each of SOURCES, by way of a download cache that all clones share.
fetch_sources() {
  local name
  for name in "${SOURCES[@]}"; do
    [[ -f .deps/$name/WORKSPACE ]] || unpack_source "$name"
  done
}

unpack_source() {
  local name=$1 archive
  archive=$(cached_archive "$name")
  if [[ -z $archive ]]; then
    say "fetching Debian's sources: ${SOURCES[*]}"
    download_sources || die "could not fetch the source packages ${SOURCES[*]}" \
      "see apt-get's message above, check the network and /etc/apt, and run the command again"
    archive=$(cached_archive "$name")
  fi
  # Unpack aside and rename, so that an interrupted set-up leaves no half a tree.
  rm -rf ".deps/$name" ".deps/$name.new"
  mkdir -p ".deps/$name.new"
  tar -xf "$archive" --strip-components=1 -C ".deps/$name.new" ||
    die "could not unpack $archive" "delete it and run the command again"
  mv ".deps/$name.new" ".deps/$name"
}

cached_archive() {
  mkdir -p "$SOURCE_CACHE"
  find "$SOURCE_CACHE" -maxdepth 1 -name "$1_*.orig.tar.*" ! -name '*.asc' |
    sort | tail -1
}

# A fresh Debian has no deb-src entry. One for each of Debian's own suites among the configured deb
# entries goes into a private list, so that the machine's configuration stays as it is.
download_sources() {
  local apt=$SOURCE_CACHE/apt
  rm -rf "$apt"
  mkdir -p "$apt/parts" "$apt/lists/partial" "$apt/cache"
  source_entries >"$apt/parts/libtdp.list"
  if [[ ! -s $apt/parts/libtdp.list ]]; then
    as_root apt-get update -q >/dev/null # names of suites are known only after an update
    source_entries >"$apt/parts/libtdp.list"
  fi
  local options=(
    -q
    -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt/parts"
    -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache"
    -o APT::Sandbox::User=root
  )
  apt-get "${options[@]}" update >/dev/null &&
    (cd "$SOURCE_CACHE" &&
      apt-get "${options[@]}" source --download-only "${SOURCES[@]}" >/dev/null)
  local status=$?
  rm -rf "$apt"
  return "$status"
}

source_entries() {
  apt-get indextargets --format '$(ORIGIN)|$(TRUSTED)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' \
    'Created-By: Packages' 'Component: main' |
    sed -n 's/^Debian|yes|\([^|]*\)|\([^|]*\)|\([^|]*\)$/deb-src \1 \2 \3/p' | sort -u
}

# setup_build [PACKAGE…]: what every build needs, and the packages named.
setup_build() {
  require "${BUILD_PACKAGES[@]}" "$@"
  fetch_sources
}

setup_all() {
  setup_build "${FORMAT_PACKAGES[@]}" "${TIDY_PACKAGES[@]}" "${FUZZ_PACKAGES[@]}" \
    "${RECORD_PACKAGES[@]}" "${COUNT_PACKAGES[@]}" "${MAN_PACKAGES[@]}" "${VTX_PACKAGES[@]}" \
    "${MODEL_PACKAGES[@]}" "${BROWSER_PACKAGES[@]}"
}
