# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

"""The rules that every BUILD file of libtdp uses: one place for warnings and include paths."""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library", "cc_test")
load("//bazel:unity.bzl", "unity_sources")

# .bazelrc turns them into errors in our own checkout, so that a newer compiler's new warning
# cannot break an embedder's build.
_WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wcast-qual",
    "-Wnon-virtual-dtor",
    "-Woverloaded-virtual",
    "-Wshadow",
    "-Wvla",
    # A designated initializer leaves the other members at their defaults; that is what it is for.
    "-Wno-missing-field-initializers",
]

# What makes a freestanding archive of the core (docs/embedding.md); CMakeLists.txt has the same,
# and more that keeps the text small.
_FREESTANDING = [
    "-O2",
    "-ffreestanding",
    "-fno-exceptions",
    "-fno-rtti",
    "-mgeneral-regs-only",
    "-mno-red-zone",
    "-fno-stack-protector",
    "-U_FORTIFY_SOURCE",
    "-fno-threadsafe-statics",
    "-fno-asynchronous-unwind-tables",
    "-ffunction-sections",
    "-fdata-sections",
    "-DNDEBUG",
]

# What its users define too. The standard library's headers without its archive: g++ 13 and newer
# hide most of them from freestanding programs unless told, and no template is instantiated there.
_FREESTANDING_DEFINES = [
    "TDP_FREESTANDING",
    "_GLIBCXX_HOSTED=1",
    "_GLIBCXX_EXTERN_TEMPLATE=0",
]

# base, memslot, rmap and mmu must link into kernels and hypervisors without exceptions. They use no
# RTTI either (scripts/check_files.py), but are not built without it: an embedder's UBSan asks for
# the type information of `Vm` and `Backend`. Who wants -fno-rtti adds it to all of a build.
_CORE = [
    "-fno-exceptions",
]

def tdp_library(name, hdrs = [], srcs = [], deps = [], core = False, copts = [], **kwargs):
    """A library whose headers are included as "tdp/<package>/<header>".

    Args:
      name: the one concept it holds.
      hdrs: its public headers.
      srcs: its sources.
      deps: what it uses.
      core: whether it builds without exceptions.
      copts: further compiler options.
      **kwargs: whatever else cc_library takes.
    """
    package = native.package_name()
    cc_library(
        name = name,
        hdrs = hdrs,
        srcs = srcs,
        copts = _WARNINGS + (_CORE if core else []) + copts,
        include_prefix = "tdp/" + package if package else "tdp",
        strip_include_prefix = "/" + package,
        deps = deps,
        **kwargs
    )

def tdp_freestanding_sources():
    """The C++ files of this package of the core, for whoever compiles all of it in another way."""
    native.filegroup(
        name = "freestanding_headers",
        srcs = native.glob(["*.h"]),
        visibility = ["//:__pkg__"],
    )
    native.filegroup(
        name = "freestanding_sources",
        srcs = native.glob(
            ["*.cc"],
            allow_empty = True,
        ),
        visibility = [
            "//:__pkg__",
            "//tests/lines:__pkg__",
        ],
    )

def tdp_freestanding_library(name, packages, defines = [], without = [], deps = [], **kwargs):
    """The core as one archive for machines without a C or C++ library.

    Args:
      name: the archive.
      packages: those with `tdp_freestanding_sources`.
      defines: what its users define too.
      without: the packages whose headers are there, but no code.
      deps: what they use that is no C++, and so the same in every build.
      **kwargs: whatever else cc_library takes.
    """
    sources = [package + ":freestanding_sources" for package in packages if package not in without]
    unity_sources(
        name = name + "_units",
        packages = sources,
        tags = ["manual"],
        visibility = ["//visibility:private"],
    )
    cc_library(
        name = name,
        hdrs = [package + ":freestanding_headers" for package in packages],
        srcs = ["//base/freestanding:runtime.cc", name + "_units"],
        textual_hdrs = sources,
        copts = _WARNINGS + _FREESTANDING,
        defines = _FREESTANDING_DEFINES + defines,
        include_prefix = "tdp",
        strip_include_prefix = "/",
        deps = ["//base/freestanding:absl"] + deps,
        **kwargs
    )

def tdp_freestanding_part(name, hdrs, srcs, deps):
    """What stands over a `tdp_freestanding_library`, compiled as it is.

    Args:
      name: the library.
      hdrs: included as "tdp/<package>/<header>".
      srcs: its sources.
      deps: the freestanding library, and more of these.
    """
    package = native.package_name()
    cc_library(
        name = name,
        hdrs = hdrs,
        srcs = srcs,
        copts = _WARNINGS + _FREESTANDING,
        include_prefix = "tdp/" + package,
        strip_include_prefix = "/" + package,
        tags = ["no-asan"],
        deps = deps,
    )

def tdp_freestanding_binary(name, copts = [], linkopts = [], **kwargs):
    """A static program without a C or C++ library."""
    cc_binary(
        name = name,
        copts = _WARNINGS + _FREESTANDING + copts,
        linkopts = [
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,--gc-sections",
        ] + linkopts,
        **kwargs
    )

def tdp_sources(names):
    """Sources of libraries, for tests that include them as "tdp/<package>/<name>.cc".

    Args:
      names: the libraries'; each source is <name>_source.
    """
    package = native.package_name()
    for name in names:
        cc_library(
            name = name + "_source",
            testonly = True,
            hdrs = [name + ".cc"],
            include_prefix = "tdp/" + package,
            strip_include_prefix = "/" + package,
            visibility = ["//tests:__subpackages__"],
        )

def tdp_binary(name, copts = [], **kwargs):
    """A program."""
    cc_binary(
        name = name,
        copts = _WARNINGS + copts,
        **kwargs
    )

def tdp_test(name, deps = [], size = "small", copts = [], tags = [], **kwargs):
    """A GoogleTest program; main() comes with it. The tag "tsan" is for tests with threads."""
    suppressions = ["//tests:tsan_suppressions"] if "tsan" in tags else []
    cc_test(
        name = name,
        size = size,
        copts = _WARNINGS + copts,
        tags = tags,
        deps = deps + suppressions + ["@com_google_googletest//:gtest_main"],
        **kwargs
    )

def tdp_benchmark(name, deps = [], copts = [], **kwargs):
    """A Google Benchmark program; main() comes with it. `./run bench` runs them all."""
    cc_binary(
        name = name,
        testonly = True,
        copts = _WARNINGS + copts,
        deps = deps + ["@com_github_google_benchmark//:benchmark_main"],
        **kwargs
    )

def tdp_fuzz_test(name, srcs, deps = [], copts = [], linkopts = [], tags = [], **kwargs):
    """A libFuzzer program <target>_fuzz, and a test of what it has learned.

    `./run fuzz <target>` runs the program, which needs --config=fuzz. <target>_corpus_test gives
    each file of corpus/<target> to the same function, by any compiler.
    """
    target = name[:-len("_fuzz")]
    corpus = native.package_name() + "/corpus/" + target
    cc_binary(
        name = name,
        testonly = True,
        srcs = srcs,
        copts = _WARNINGS + copts,
        linkopts = linkopts + ["-fsanitize=fuzzer"],
        tags = tags + [
            "fuzz",
            "manual",
        ],
        deps = deps,
        **kwargs
    )
    tdp_test(
        name = target + "_corpus_test",
        srcs = srcs + ["corpus_replay_test.cc"],
        copts = copts + ["-DTDP_FUZZ_CORPUS=\\\"" + corpus + "\\\""],
        data = native.glob(["corpus/" + target + "/*"]),
        tags = tags,
        deps = deps,
        **kwargs
    )
