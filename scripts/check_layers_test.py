# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import unittest

import check_layers


class CheckLayers(unittest.TestCase):

    def problems(self, path, *includes):
        return check_layers.check_text(path, "\n".join(f"#include {name}" for name in includes))

    def test_a_lower_layer_and_the_own_folder_may_be_included(self):
        self.assertEqual([], self.problems(
            "mmu/vm/vm.cc", '"tdp/mmu/vm.h"', '"tdp/base/level.h"', '"tdp/rmap/rmap.h"',
            "<cstdint>", '"absl/status/status.h"'))

    def test_a_higher_layer_is_named_with_its_line(self):
        self.assertEqual(
            ['base/level.h:2: base/ may not include "tdp/mmu/vm.h" (only nothing of ours)'],
            self.problems("base/level.h", "<cstdint>", '"tdp/mmu/vm.h"'))

    def test_memslot_and_rmap_know_nothing_of_each_other(self):
        self.assertEqual(1, len(self.problems("rmap/rmap.h", '"tdp/memslot/slot_set.h"')))
        self.assertEqual(1, len(self.problems("memslot/slot_set.h", '"tdp/rmap/rmap.h"')))

    def test_a_folder_of_the_engine_has_rules_of_its_own(self):
        self.assertEqual([], self.problems("mmu/tables/table_pool.cc", '"tdp/mmu/backend.h"',
                                           '"tdp/mmu/format/ept_entry.h"'))
        self.assertEqual(1, len(self.problems("mmu/format/eptp.h", '"tdp/mmu/sync/mmu_lock.h"')))
        self.assertEqual(1, len(self.problems("mmu/tables/aging.h", '"tdp/mmu/engine/engine.h"')))

    def test_positions_of_bits_are_known_to_the_formats_alone(self):
        self.assertEqual([], self.problems("mmu/format/eptp.h", '"tdp/mmu/format/ept_format.h"'))
        for path in ("mmu/tables/collapse.cc", "mmu/dirty/dirty_harvest.cc", "mmu/vm/vm.cc"):
            self.assertEqual(1, len(self.problems(path, '"tdp/mmu/format/ept_format.h"')), path)
        self.assertEqual([], self.problems("backends/sim/cpu.cc",
                                           '"tdp/mmu/format/ept_format.h"'))

    def test_the_parts_of_the_engine_see_the_seams_of_its_face_alone(self):
        self.assertEqual([], self.problems("mmu/engine/engine.h", '"tdp/mmu/vm_options.h"'))
        self.assertEqual(1, len(self.problems("mmu/engine/engine.h", '"tdp/mmu/vcpu.h"')))

    def test_a_public_header_brings_public_headers_alone(self):
        self.assertEqual([], self.problems("mmu/vm.h", '"tdp/mmu/vcpu.h"', '"tdp/base/address.h"',
                                           '"tdp/mmu/format/eptp.h"', "<memory>"))
        self.assertEqual(
            ['mmu/vm.h:1: "tdp/memslot/slot_set.h" is no public header, and mmu/vm.h is one'],
            self.problems("mmu/vm.h", '"tdp/memslot/slot_set.h"'))
        self.assertEqual(1, len(self.problems("mmu/shadow/shadow_vcpu.h",
                                              '"tdp/mmu/reverse_mapped/shadow_tables.h"')))
        self.assertEqual(1, len(self.problems("memslot/guest_memory.h",
                                              '"tdp/memslot/dirty_log.h"')))
        self.assertEqual([], self.problems("mmu/vm_options.cc", '"tdp/mmu/option_pairs.h"'))

    def test_what_stands_behind_the_face_sees_everything_and_the_face_does_not_see_it(self):
        self.assertEqual([], self.problems("mmu/vm/vcpu_impl.h", '"tdp/mmu/fault/fault_handler.h"',
                                           '"tdp/mmu/vcpu.h"'))
        self.assertEqual(1, len(self.problems("mmu/vcpu.h", '"tdp/mmu/vm/vcpu_impl.h"')))
        self.assertEqual(1, len(self.problems("mmu/fault/prefault.cc",
                                              '"tdp/mmu/vm/vcpu_impl.h"')))

    def test_backends_stand_beside_the_tables(self):
        self.assertEqual([], self.problems("backends/sim/cpu.h", '"tdp/mmu/backend.h"',
                                           '"tdp/mmu/format/eptp.h"'))
        self.assertEqual(1, len(self.problems("backends/sim/cpu.h", '"tdp/mmu/vm.h"')))

    def test_the_engine_knows_no_backend(self):
        self.assertEqual(1, len(self.problems("mmu/vm.h", '"tdp/backends/sim/cpu.h"')))

    def test_nothing_includes_tests_or_benchmarks(self):
        self.assertEqual(1, len(self.problems("tools/replay.cc", '"tdp/tests/model.h"')))
        self.assertEqual(1, len(self.problems("backends/sim/cpu.cc", '"tdp/benchmarks/util.h"')))

    def test_tests_may_include_everything(self):
        self.assertEqual([], self.problems("tests/mmu/vm_test.cc", '"tdp/backends/sim/cpu.h"',
                                           '"tdp/tests/model.h"', '"gtest/gtest.h"'))
        self.assertEqual([], self.problems("tests/mmu/vm_test.cc", '"tests/mmu/model.h"'))
        self.assertEqual(1, len(self.problems("tests/mmu/vm_test.cc", '"mmu/vm.h"')))

    def test_our_headers_carry_the_prefix(self):
        self.assertEqual(1, len(self.problems("mmu/vm.cc", '"mmu/vm.h"')))
        self.assertEqual(1, len(self.problems("mmu/vm.cc", '"../base/level.h"')))

    def test_an_unknown_layer_is_a_violation(self):
        self.assertEqual(1, len(self.problems("mmu/vm.cc", '"tdp/util/x.h"')))

    def test_the_core_includes_no_operating_system(self):
        self.assertEqual(1, len(self.problems("mmu/vm.cc", "<sys/mman.h>")))
        self.assertEqual(1, len(self.problems("base/spin.h", "<unistd.h>")))
        self.assertEqual([], self.problems("backends/linux_host/host.cc", "<sys/mman.h>"))

    def test_the_judge_has_the_entry_formats_and_the_simulator_alone(self):
        self.assertEqual([], self.problems("judge/court.cc", '"tdp/mmu/format/ept_format.h"',
                                           '"tdp/backends/sim/cpu.h"', '"tdp_judge.h"'))
        self.assertEqual(1, len(self.problems("judge/court.cc", '"tdp/mmu/vm.h"')))
        self.assertEqual(1, len(self.problems("judge/court.cc", '"tdp/backends/vtx/vmx_cpu.h"')))
        self.assertEqual(1, len(self.problems("mmu/vm.cc", '"tdp/judge/tdp_judge.h"')))

    def test_an_include_with_blanks_is_seen(self):
        self.assertEqual(1, len(check_layers.check_text("base/a.h", '  #  include "tdp/mmu/vm.h"')))

    def test_a_comment_is_no_include(self):
        self.assertEqual([], check_layers.check_text("base/a.h", '// #include "tdp/mmu/vm.h"'))


if __name__ == "__main__":
    unittest.main()
