# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

"""The core compiled once more in another way: a file of #include lines for each package.

Most of the time of a small file's compilation goes into the headers that it shares with the others
of its package. A package of the core is one unit in builds by CMake that ask for it, too.
"""

def _unity_sources_impl(ctx):
    units = []
    for package in ctx.attr.packages:
        sources = [file for file in package.files.to_list() if file.extension == "cc"]
        if not sources:
            continue
        folder = package.label.package
        unit = ctx.actions.declare_file("%s/%s_unit.cc" % (
            ctx.label.name,
            folder.replace("/", "_"),
        ))

        # From the root of the repository, wherever that lies: Bazel looks there for quoted names.
        ctx.actions.write(
            unit,
            "".join(["#include \"%s/%s\"\n" % (folder, file.basename) for file in sources]),
        )
        units.append(unit)
    return [DefaultInfo(files = depset(units))]

unity_sources = rule(
    implementation = _unity_sources_impl,
    doc = "A source for each package, which includes those of the package; they are inputs, too.",
    attrs = {
        "packages": attr.label_list(
            doc = "Filegroups of sources, each of one package.",
            allow_files = [".cc"],
        ),
    },
)
