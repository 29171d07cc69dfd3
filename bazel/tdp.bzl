# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

"""The rules that every BUILD file of libtdp uses: one place for warnings and include paths."""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library", "cc_test")

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

def tdp_fuzz_test(name, deps = [], copts = [], linkopts = [], tags = [], **kwargs):
    """A libFuzzer program <target>_fuzz for `./run fuzz <target>` alone: needs --config=fuzz."""
    cc_binary(
        name = name,
        testonly = True,
        copts = _WARNINGS + copts,
        linkopts = linkopts + ["-fsanitize=fuzzer"],
        tags = tags + [
            "fuzz",
            "manual",
        ],
        deps = deps,
        **kwargs
    )
