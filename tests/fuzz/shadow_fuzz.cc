// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Bytes become what a guest does on shadow tables: its tables, accesses, stores into tables,
// INVLPGs and MOVs to CR3, with slot changes and the host's doings between. A software CPU on EPT
// judges it, and the invariants of the shadow do.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "absl/status/status.h"
#include "tests/fuzz/input_bytes.h"
#include "tests/mmu/shadow/random_guest.h"

namespace {

using tdp::fuzz::InputBytes;

// Makes a choice of as many bytes as it takes, while there are any.
uint64_t Below(InputBytes& bytes, uint64_t bound) {
  uint64_t word = 0;
  for (uint64_t span = 1; span < bound && !bytes.empty(); span <<= 8) {
    word = word << 8 | bytes.Take<uint8_t>();
  }
  return word % bound;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  static tdp::SimMachine machine(tdp::shadow_test::RandomGuest::UsedAgain());
  tdp::shadow_test::RandomGuestOptions options;
  options.machine = &machine;
  options.mode = static_cast<tdp::PagingMode>(data[0] % 5);
  options.host_order = (data[0] & 0x80) != 0 ? 9 : 0;
  InputBytes bytes(data + 1, size - 1);
  // The tables that the guest begins with are dealt by one number: bytes are kept for what it does.
  uint64_t deal = Below(bytes, uint64_t{1} << 16);
  bool dealing = true;
  tdp::shadow_test::RandomGuest guest(options, [&](uint64_t bound) {
    if (!dealing) return Below(bytes, bound);
    deal = deal * 0x5851f42d4c957f2d + 0x14057b7ef767814f;
    return (deal >> 33) % bound;
  });
  dealing = false;
  absl::Status status;
  for (int step = 0; !bytes.empty() && status.ok(); ++step) {
    status = guest.Step();
    if (status.ok() && step % 8 == 0) status = guest.Check();
  }
  if (status.ok()) status = guest.Check();
  if (status.ok()) return 0;
  std::fprintf(stderr, "mode %d order %d: %s\n", static_cast<int>(options.mode), options.host_order,
               status.ToString().c_str());
  std::abort();
}
