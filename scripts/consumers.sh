# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# The foreign projects of tests/consumers, each built and run as a stranger would: against a copy of
# this checkout, from a folder outside of it, with none of our visibility or flags. Sourced after
# lib.sh and setup.sh.

readonly CONSUMER_PACKAGES=(clang-14 cmake libabsl-dev make ninja-build pkg-config)
readonly STRICT_WARNINGS=(
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wold-style-cast
  -Wextra-semi -Wnon-virtual-dtor
)
readonly ONE_UNIT=(-DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=0)

# copy_checkout FOLDER: what is under version control, or about to be, and the unpacked sources.
copy_checkout() {
  mkdir -p "$1"
  project_files | tar -cf - --files-from=- | tar -xf - -C "$1"
  cp -al .deps "$1/.deps" 2>/dev/null || cp -a .deps "$1/.deps"
}

# run_consumer_programs FOLDER: what every consumer builds.
run_consumer_programs() { "$1/first_fault" && "$1/own_backend"; }

# Each consumer_NAME WORK builds the project tests/consumers/NAME below WORK, where the checkout's
# copy is WORK/libtdp and an installed one is WORK/installed, and runs what it has built.

consumer_bazel4() {
  local folder=$1/bazel4
  cp tests/consumers/*.cc "$folder/"
  mv "$folder/BUILD.bazel.in" "$folder/BUILD.bazel"
  sed -i "s|path = \"LIBTDP\"|path = \"$1/libtdp\"|" "$folder/WORKSPACE"
  (
    cd "$folder" || exit 1
    # With the options of our own config opt, in their order, the disk cache has Abseil already.
    bazel --nohome_rc build "${BAZEL_QUIET[@]}" --ui_event_filters=-info \
      --show_result=0 --cxxopt=-std=c++20 --dynamic_mode=off --features=-supports_pic \
      --features=-supports_dynamic_linker --copt=-O1 --copt=-g1 \
      --compilation_mode=opt --copt=-O2 --copt=-g0 --strip=always \
      --disk_cache="$HOME/.cache/libtdp/bazel" --nosandbox_debug //... &&
      run_consumer_programs bazel-bin
    status=$?
    bazel --nohome_rc shutdown
    exit "$status"
  )
}

consumer_cmake_installed() {
  cmake -G Ninja -S "$1/cmake_installed" -B "$1/cmake_installed/build" \
    -DCMAKE_PREFIX_PATH="$1/installed" >/dev/null &&
    cmake --build "$1/cmake_installed/build" >/dev/null &&
    run_consumer_programs "$1/cmake_installed/build"
}

# The flags of a project are those of its subprojects: our sources bear the strictest, and here they
# become shared libraries. A unity build takes a quarter of the time.
consumer_cmake_subproject() {
  local warnings="-Werror ${STRICT_WARNINGS[*]}"
  cmake -G Ninja -S "$1/cmake_subproject" -B "$1/cmake_subproject/build" \
    -DLIBTDP="$1/libtdp" -DCMAKE_UNITY_BUILD=ON -DBUILD_SHARED_LIBS=ON \
    -DCMAKE_CXX_FLAGS="-O0 -fno-rtti -DNDEBUG $warnings" >/dev/null &&
    cmake --build "$1/cmake_subproject/build" >/dev/null &&
    run_consumer_programs "$1/cmake_subproject/build"
}

consumer_pkg_config() {
  local compiler
  for compiler in g++ clang++-14; do
    PKG_CONFIG_PATH=$(find "$1/installed" -type d -name pkgconfig) CXXFLAGS=-Werror \
      make -s -B -C "$1/pkg_config" CXX="$compiler" &&
      run_consumer_programs "$1/pkg_config" || return 1
  done
}

# run_freestanding LIBTDP FOLDER COMPILER [CMAKE OPTION…]: the core without a C or C++ library, of
# direct tables alone, installed below FOLDER; examples/freestanding by make over it; and what the
# archive asks for. 150 KB of text is the most that an embedder has to add.
run_freestanding() {
  local folder=$2 compiler=$3 packages archives
  cp -r examples/freestanding "$folder/example" &&
    cmake -G Ninja -S "$1" -B "$folder/build" -DLIBTDP_FREESTANDING=ON -DLIBTDP_SHADOW=OFF \
      -DLIBTDP_VTX=ON -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Release \
      -DCMAKE_CXX_FLAGS_RELEASE="-O2 -DNDEBUG" -DCMAKE_INSTALL_PREFIX="$folder/installed" \
      "${@:4}" >/dev/null &&
    cmake --build "$folder/build" >/dev/null &&
    cmake --install "$folder/build" >/dev/null || return 1
  packages=$(find "$folder/installed" -type d -name pkgconfig)
  PKG_CONFIG_PATH=$packages make -s -C "$folder/example" CXX="$compiler" &&
    "$folder/example/violations" || return 1
  mapfile -t archives < <(find "$folder/installed" -name 'libtdp*.a' | sort)
  python3 scripts/check_freestanding.py --without-shadow --program "$folder/example/violations" \
    --most-text $((150 * 1024)) "${archives[@]}"
}

# With a program that runs out of memory besides.
consumer_freestanding() {
  local folder=$1/freestanding packages
  run_freestanding "$1/libtdp" "$folder" g++ || return 1
  packages=$(find "$folder/installed" -type d -name pkgconfig)
  PKG_CONFIG_PATH=$packages make -s -C "$folder" EXAMPLE=example starved &&
    "$folder/starved" || return 1
  # The same by CMake's find_package.
  cmake -G Ninja -S "$folder/example" -B "$folder/by_cmake" \
    -DCMAKE_PREFIX_PATH="$folder/installed" >/dev/null &&
    cmake --build "$folder/by_cmake" >/dev/null && "$folder/by_cmake/violations"
}

# The same by clang, which has other flags for code without vectors, and is stricter with the names
# that a standard library declares.
consumer_freestanding_clang() {
  mkdir -p "$1/freestanding_clang" &&
    run_freestanding "$1/libtdp" "$1/freestanding_clang" clang++-14 "${ONE_UNIT[@]}"
}

# Every public header, to the strictest compilers, in both languages; and one line for an older one.
consumer_strict_headers() {
  local include=$1/installed/include all=$1/all_headers.cc compiler language
  (cd "$include" && find tdp -name '*.h' | sort | sed 's/.*/#include "&"/') >"$all"
  for compiler in g++ clang++-14; do
    for language in c++20 c++2b; do
      "$compiler" -std="$language" -fsyntax-only -Werror "${STRICT_WARNINGS[@]}" -I "$include" \
        "$all" || return 1
    done
  done
  ! g++ -std=c++17 -fsyntax-only -I "$include" "$all" 2>"$1/older" &&
    grep -q 'error: #error "libtdp needs C++20' "$1/older"
}

# Each library as one unit, which some projects ask for, and which takes a third of the time. By
# clang, with its warnings of locks and the strictest besides: nothing else builds all of it so.
install_copy() {
  cmake -G Ninja -S "$1/libtdp" -B "$1/build" -DCMAKE_BUILD_TYPE=Debug "${ONE_UNIT[@]}" \
    -DCMAKE_CXX_COMPILER=clang++-14 -DLIBTDP_VTX=ON \
    -DCMAKE_CXX_FLAGS="-O0 -g0 -Werror -Wthread-safety ${STRICT_WARNINGS[*]}" \
    -DCMAKE_INSTALL_PREFIX="$1/installed" >/dev/null &&
    cmake --build "$1/build" >/dev/null && cmake --install "$1/build" >/dev/null
}

# consumers [COUNTS_FILE]: each as one test, in the order in which a newcomer would meet them.
consumers() {
  local work status=0
  setup_build "${CONSUMER_PACKAGES[@]}"
  work=$(mktemp -d)
  copy_checkout "$work/libtdp"
  cp -r tests/consumers/* "$work/"
  install_copy "$work" || say "cmake --install failed"
  count_each consumer "${1:-}" "$work" \
    bazel4 cmake_installed pkg_config strict_headers cmake_subproject freestanding \
    freestanding_clang || status=1
  rm -rf "$work"
  return "$status"
}
