# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

"""The repositories that libtdp needs, for workspaces without bzlmod.

A consumer's WORKSPACE:

    local_repository(name = "libtdp", path = "third_party/libtdp")   # or http_archive
    load("@libtdp//:deps.bzl", "libtdp_debian_bazel", "libtdp_dependencies")
    libtdp_debian_bazel()    # only with the Bazel 4.2.3 of Debian 12 and without the internet
    libtdp_dependencies()

A repository that the consumer has declared before stays as it is. With Bazel 7 and newer
MODULE.bazel says the same, and this file is not read.
"""

def _unpacked_source_impl(ctx):
    checkout = ctx.path(Label("//:WORKSPACE")).dirname
    source = checkout.get_child(".deps").get_child(ctx.attr.source)
    if not source.exists:
        fail(("libtdp: {source} is missing. Run './run setup' in {checkout} once (Debian 12), or " +
              "declare the repository '{name}' before calling libtdp_dependencies().").format(
            source = source,
            checkout = checkout,
            name = ctx.name,
        ))
    for entry in source.readdir():
        ctx.symlink(entry, entry.basename)

# Sources that `./run setup` has unpacked below this checkout, wherever that is.
_unpacked_source = repository_rule(
    implementation = _unpacked_source_impl,
    attrs = {"source": attr.string(mandatory = True)},
    local = True,
)

def _bundled_impl(ctx):
    folder = ctx.path(Label("//:WORKSPACE")).dirname
    for part in ctx.attr.path.split("/"):
        folder = folder.get_child(part)
    for entry in folder.readdir():
        ctx.symlink(entry, entry.basename)

# A folder of this checkout as a repository of its own.
_bundled = repository_rule(
    implementation = _bundled_impl,
    attrs = {"path": attr.string(mandatory = True)},
    local = True,
)

def _missing(name):
    return name not in native.existing_rules()

def _local(name, path):
    if _missing(name):
        native.local_repository(name = name, path = path)

def libtdp_dependencies():
    """What `@libtdp//:tdp` and the other public targets need: Abseil."""
    if _missing("com_google_absl"):
        _unpacked_source(name = "com_google_absl", source = "abseil")

def libtdp_dev_dependencies():
    """What only libtdp's own tests, benchmarks and tools need besides."""
    if _missing("com_google_googletest"):
        _unpacked_source(name = "com_google_googletest", source = "googletest")
    if _missing("com_github_google_benchmark"):
        _unpacked_source(name = "com_github_google_benchmark", source = "benchmark")

    # Libraries of the system, under the names that the Bazel registry gives them.
    for library in ["nlohmann_json", "xz", "zlib", "zstd"]:
        if _missing(library):
            _bundled(name = library, path = "bazel/offline/" + library)

def libtdp_debian_bazel():
    """What the Bazel of Debian 12 would download for itself, from Debian's packages instead."""

    # Debian's rules_cc is too new for its Bazel; this one forwards to the native rules.
    if _missing("rules_cc"):
        _bundled(name = "rules_cc", path = "bazel/offline/rules_cc")

    # Every cc_test wants a coverage report generator, whether or not coverage is asked for.
    if _missing("remote_coverage_tools"):
        _bundled(name = "remote_coverage_tools", path = "bazel/offline/coverage")
    _local("bazel_skylib", "/usr/share/bazel/tools/skylib")
    _local("platforms", "/usr/share/bazel/tools/platforms")
    _local("rules_java", "/usr/share/bazel/rules/java")
    _local("rules_proto", "/usr/share/bazel/rules/proto")
