# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

"""Building for the bare machine: flat binaries, and programs that boot under Bochs."""

load("@rules_cc//cc:defs.bzl", "cc_binary")
load("//bazel:tdp.bzl", "tdp_freestanding_binary")

# No option of the build around it applies here: sanitizers and the like need an operating system.
_BARE_FLAGS = " ".join([
    "-std=c++20 -O2 -Wall -Wextra -Werror",
    "-ffreestanding -fno-pic -fno-pie -mgeneral-regs-only -mno-red-zone",
    "-fno-stack-protector -fno-exceptions -fno-rtti -fno-asynchronous-unwind-tables",
    "-fno-threadsafe-statics -fcf-protection=none",
])

def bare_binary(name, srcs, linker_script, hdrs = []):
    """A flat binary, NAME.bin, of freestanding code.

    Args:
      name: the binary.
      srcs: C++ and assembly sources.
      linker_script: says where everything goes.
      hdrs: what the sources include, by its plain name.
    """
    native.genrule(
        name = name,
        srcs = srcs + hdrs + [linker_script],
        outs = [name + ".bin", name + ".elf"],
        cmd = """
            objects=""
            for source in {srcs}; do
              object=$(@D)/{name}_$$(basename $$source).o
              language=$$([[ $$source == *.S ]] || echo "{flags}")
              $(CC) $$language -I$$(dirname $$source) -c $$source -o $$object
              objects+=" $$object"
            done
            ld -nostdlib -static -T $(location {script}) -o $(location {name}.elf) $$objects
            objcopy -O binary $(location {name}.elf) $(location {name}.bin)
        """.format(
            srcs = " ".join(["$(location %s)" % src for src in srcs]),
            flags = _BARE_FLAGS,
            name = name,
            script = linker_script,
        ),
        toolchains = ["@bazel_tools//tools/cpp:current_cc_toolchain"],
        visibility = ["//bazel:above_backends"],
    )

def _boot_impl(ctx):
    image = ctx.actions.declare_file(ctx.label.name + ".img")
    ctx.actions.run_shell(
        inputs = [ctx.file.loader, ctx.file.program],
        outputs = [image],
        command = "strip -o $3.elf $2 && cat $1 $3.elf >$3 && rm $3.elf",
        arguments = [ctx.file.loader.path, ctx.file.program.path, image.path],
        use_default_shell_env = True,
        mnemonic = "BootImage",
    )
    script = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.write(script, is_executable = True, content = "\n".join([
        "#!/bin/bash",
        "# Bazel starts tests where their files are; when called by hand, go there.",
        "[[ -e {rom} ]] || cd \"$(readlink -f \"$0\").runfiles/{workspace}\" || exit",
        "exec python3 {runner} --name={name} --rom={rom} --image={image} --cpu-model={model} " +
        "--cpus={cpus} --memory={memory} --timeout={timeout} --ips={ips} " +
        "{needs} ${{TDP_BOCHS_OPTIONS-}} -- {args} \"$@\"",
        "",
    ]).format(
        runner = ctx.file.runner.short_path,
        name = ctx.label.name,
        workspace = ctx.workspace_name,
        rom = ctx.file.rom.short_path,
        image = image.short_path,
        model = ctx.attr.cpu_model,
        cpus = ctx.attr.cpus,
        memory = ctx.attr.memory_mib,
        timeout = ctx.attr.timeout_seconds,
        ips = ctx.attr.ips,
        needs = " ".join(["--needs=" + file for file in ctx.attr.files]),
        args = " ".join(["'%s'" % arg for arg in ctx.attr.program_args]),
    ))
    return [DefaultInfo(
        executable = script,
        files = depset([script, image]),
        runfiles = ctx.runfiles(files = [ctx.file.runner, ctx.file.rom, image]),
    )]

# The emulated machine, of which the macros below take each by its name.
_MACHINE_ATTRS = {
    "cpu_model": attr.string(default = "tigerlake"),
    "cpus": attr.int(default = 1),
    "memory_mib": attr.int(default = 256),
    "timeout_seconds": attr.int(default = 120),
    "ips": attr.int(default = 100000000),
    "files": attr.string_list(),
    "program_args": attr.string_list(),
}

_BOOT_ATTRS = dict(_MACHINE_ATTRS, **{
    "program": attr.label(allow_single_file = True, mandatory = True),
    "loader": attr.label(allow_single_file = True, mandatory = True),
    "rom": attr.label(allow_single_file = True, default = "//backends/vtx/boot:rom.bin"),
    "runner": attr.label(allow_single_file = True, default = "//backends/vtx/boot:run_bochs.py"),
})

def _take_machine(kwargs):
    """Takes what is of the machine out of a macro's other arguments."""
    return {name: kwargs.pop(name) for name in _MACHINE_ATTRS if name in kwargs}

_boot = rule(implementation = _boot_impl, attrs = _BOOT_ATTRS, executable = True)
_boot_test = rule(implementation = _boot_impl, attrs = _BOOT_ATTRS, test = True)

# The loader's own memory ends at 32 MiB.
_BEHIND_THE_LOADER = ["-Wl,-Ttext-segment=0x2000000"]
_STATIC = ["-static", "-no-pie"] + _BEHIND_THE_LOADER

_LOADER = "//backends/vtx/boot:loader.bin"
_HOSTED_LOADER = "//backends/vtx/boot:hosted_loader.bin"

# The emulator takes as long for an iteration of REP MOVS as for an instruction, so copies are calls
# of the C library, which the loader keeps from using REP.
_COPIES_BY_CALL = [
    "-mmemcpy-strategy=libcall:-1:align",
    "-mmemset-strategy=libcall:-1:align",
]

def _program(name, copts = [], linkopts = [], tags = [], **kwargs):
    cc_binary(
        name = name + "_program",
        copts = copts + _COPIES_BY_CALL,
        linkopts = linkopts + _STATIC,
        tags = tags + ["no-asan"],
        **kwargs
    )
    return ":" + name + "_program"

def tdp_vtx_binary(name, testonly = False, **kwargs):
    """A hosted program that boots under Bochs when it is run.

    Args:
      name: the program.
      testonly: as of every rule.
      **kwargs: the machine, as for tdp_vtx_test, and what cc_binary takes.
    """
    machine = _take_machine(kwargs)
    _boot(
        name = name,
        loader = _HOSTED_LOADER,
        testonly = testonly,
        program = _program(name, testonly = testonly, **kwargs),
        tags = ["no-asan"],
        **machine
    )

def tdp_vtx_bare_binary(name, srcs, deps = [], visibility = None, **machine):
    """A program without a C library that boots under Bochs when it is run.

    It has the freestanding core, the VT-x driver and the platform of backends/vtx/boot/bare.h.

    Args:
      name: the program; the ELF file is NAME_program.
      srcs: C++ sources, with a `main()`.
      deps: what else it is linked with.
      visibility: of the program, too.
      **machine: as for tdp_vtx_test; a `vtx::Processor` takes one of `cpus`.
    """
    tdp_freestanding_binary(
        name = name + "_program",
        srcs = srcs,
        linkopts = _BEHIND_THE_LOADER,
        tags = ["no-asan"],
        visibility = visibility,
        deps = deps + ["//backends/vtx/boot:bare_platform"],
    )
    _boot(
        name = name,
        program = ":" + name + "_program",
        loader = _LOADER,
        tags = ["no-asan"],
        visibility = visibility,
        **machine
    )

def tdp_vtx_test(
        name,
        deps = [],
        program = None,
        timeout_seconds = 100,
        timeout = "moderate",
        bare = False,
        **kwargs):
    """A GoogleTest program that runs in ring 0 of an emulated machine; main() comes with it.

    Args:
      name: the test.
      deps: what the program uses.
      program: the program of another tdp_vtx_test, "NAME_program", to run it on another machine.
      timeout_seconds: after which the emulator is killed and the test fails.
      timeout: Bazel's own, above timeout_seconds.
      bare: whether `program` is that of a tdp_vtx_bare_binary, which is no GoogleTest program.
      **kwargs: the rest of the machine, and what cc_binary takes. Of the machine are
        cpu_model: one of those that `bochs-bin --help cpu` lists;
        cpus: how many; a std::thread takes one;
        memory_mib: RAM in MiB, 64 to 512;
        ips: emulated instructions that make a second of the machine's clocks;
        files: what `--file=NAME=PATH` in TDP_BOCHS_OPTIONS is to bring into memory, by NAME; a
          test without one of them is skipped;
        program_args: GoogleTest's options and the like.
    """
    machine = _take_machine(kwargs)
    if not program:
        program = _program(
            name,
            testonly = True,
            deps = deps + ["@com_google_googletest//:gtest_main"],
            **kwargs
        )
    _boot_test(
        name = name,
        loader = _LOADER if bare else _HOSTED_LOADER,
        program = program,
        timeout_seconds = timeout_seconds,
        timeout = timeout,
        # No sanitizer works without an operating system.
        tags = ["no-asan"],
        **machine
    )
