// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One random operation on a guest is a value that prints as C++: a fuzzer's finding becomes a named
// test by pasting its lines.

#ifndef TDP_TESTS_MODEL_ENGINE_OP_H_
#define TDP_TESTS_MODEL_ENGINE_OP_H_

#include <cstdint>
#include <string>
#include <vector>

namespace tdp::model {

enum class OpKind : uint8_t {
  kAccess,      // CPU `cpu` loads, stores or fetches (`how`) at page `page`
  kSetSlot,     // slot `slot` of `count` pages at `page` over host page `host`, with flags `how`
  kDeleteSlot,  // slot `slot`
  kZap,         // `count` pages from `page`
  kZapAll,
  kDiscard,      // the host drops `count` of its pages from `host`: the next touch finds others
  kMigrate,      // the host moves them
  kProtect,      // the host makes them writable or not (`how`)
  kNewVcpu,      // CPU `cpu` gets a new vCPU
  kAge,          // `count` host pages from `host` become old
  kSplit,        // leaves of `count` pages from `page` are split, to 2 MiB if `how` is odd
  kCollapse,     // `count` pages from `page` are collapsed
  kPrefault,     // CPU `cpu` prefaults `count` pages from `page` for a load, store or fetch (`how`)
  kSetView,      // CPU `cpu` goes to view `slot`
  kRights,       // `count` pages from `page` get the rights `how` in view `slot`
  kAttributes,   // they become private or shared (`how`)
  kMemoryTypes,  // the guest's MTRRs make some MiB around `page` uncached, if they count (`how`)
  kQuota,        // the table quota changes, by `how`
  kTakeLog,      // the dirty log of slot `slot` is taken; with rings all of them are harvested
  kMarkDirty,    // a device writes `count` pages from `page`
  kPushDownLog,  // the log of slot `slot` goes down to its leaves
  kFrames,    // `count` pages from `page` show frame `host` in view `slot`, or (`how`) the slots'
  kPopulate,  // `count` pages from `page` are mapped in view `slot`
  kBatch,     // slot `slot` is made anew, `count` pages get rights and are zapped, all or nothing
  kCount      // not an operation
};

struct Op {
  OpKind kind = OpKind::kAccess;
  uint8_t cpu = 0;
  uint8_t how = 0;
  uint8_t slot = 0;
  uint16_t page = 0;
  uint16_t count = 0;
  uint16_t host = 0;

  friend bool operator==(const Op&, const Op&) = default;
};

// Returns "{OpKind::kZap, 0, 0, 0, 0x12, 0x4, 0}," and the like.
std::string ToCpp(const Op& op);
std::string ToCpp(const std::vector<Op>& ops);

// Makes operations of arbitrary bytes, brought into range: 11 bytes each; a rest is dropped.
std::vector<Op> OpsFromBytes(const uint8_t* data, size_t size);

}  // namespace tdp::model

#endif  // TDP_TESTS_MODEL_ENGINE_OP_H_
