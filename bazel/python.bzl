# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

"""A script of Python as a target: Bazel 9 has no rule for it without a module of its own."""

def _python_binary_impl(ctx):
    launcher = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.write(launcher, is_executable = True, content = "\n".join([
        "#!/bin/bash",
        "# `bazel run` starts programs where their files are; when called by hand, go there.",
        "[[ -e {script} ]] || cd \"$(readlink -f \"$0\").runfiles/{workspace}\" || exit",
        "exec python3 {script} {program} \"$@\"",
        "",
    ]).format(
        script = ctx.file.script.short_path,
        program = ctx.executable.program.short_path,
        workspace = ctx.workspace_name,
    ))
    files = ctx.runfiles(files = [ctx.file.script])
    return [DefaultInfo(
        executable = launcher,
        runfiles = files.merge(ctx.attr.program[DefaultInfo].default_runfiles),
    )]

tdp_python_binary = rule(
    implementation = _python_binary_impl,
    doc = "Runs a script of Python, whose first argument is the path of a program.",
    attrs = {
        "program": attr.label(executable = True, cfg = "target", mandatory = True),
        "script": attr.label(allow_single_file = [".py"], mandatory = True),
    },
    executable = True,
)
