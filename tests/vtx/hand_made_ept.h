// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These EPT tables are written entry by entry, without the engine.

#ifndef TDP_TESTS_VTX_HAND_MADE_EPT_H_
#define TDP_TESTS_VTX_HAND_MADE_EPT_H_

#include <cstdint>
#include <vector>

#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {

// Has 4 KiB leaves for the low `bytes` of a machine's slot 0, each with every right and with #VE
// suppressed.
class HandMadeEpt {
 public:
  HandMadeEpt(Machine& machine, ByteCount bytes);
  ~HandMadeEpt();

  HandMadeEpt(const HandMadeEpt&) = delete;
  HandMadeEpt& operator=(const HandMadeEpt&) = delete;

  EptEntry Get(Gpa gpa) const { return EptEntry(Leaf(gpa)); }
  void Set(Gpa gpa, EptEntry entry) { Leaf(gpa) = entry.raw(); }
  Eptp eptp(bool accessed_dirty = false) const { return Eptp::Make(tables_[0], 4, accessed_dirty); }

 private:
  void Store(size_t table, int index, EptEntry entry);
  uint64_t& Leaf(Gpa gpa) const;

  FrameArena& arena_;
  std::vector<Hpa> tables_;  // the root, one of level 3, one of level 2, then those of the leaves
};

}  // namespace tdp::vtx

#endif  // TDP_TESTS_VTX_HAND_MADE_EPT_H_
