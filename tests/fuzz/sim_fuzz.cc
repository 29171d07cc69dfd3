// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The software CPU gets raw table memory and raw accesses. The input is a stream of bytes: settings
// of the CPU, words of memory, accesses and invalidations. Whatever it says, the CPU neither
// crashes nor hangs nor leaves the memory given to it (the address sanitizer watches), and its
// answers are consistent: see `CheckAnswer`. Each input runs twice, the second time on a CPU whose
// references are charged and which therefore never takes the short way through quiet tables: both
// leave the same answers, counts and memory.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tdp/backends/sim/cost_model.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/base/check.h"
#include "tests/fuzz/input_bytes.h"

namespace tdp::sim {
namespace {

constexpr ByteCount kMemory = KiB(64);

class Input : public fuzz::InputBytes {
 public:
  using InputBytes::InputBytes;

  uint8_t Byte() { return Take<uint8_t>(); }
  // Returns an address that often lies in the memory, so that walks get deep.
  uint64_t Address() {
    const uint64_t word = Word();
    return (word & 1) != 0 ? word % kMemory & ~uint64_t{7} : word;
  }
};

class Fuzzer {
 public:
  Fuzzer() : bytes_(new (std::align_val_t{kPageSize}) std::byte[kMemory]()) {}
  ~Fuzzer() { ::operator delete[](bytes_, std::align_val_t{kPageSize}); }
  Fuzzer(const Fuzzer&) = delete;
  Fuzzer& operator=(const Fuzzer&) = delete;

  // Runs the input, with a cost model if `charged`.
  void Run(Input input, bool charged) {
    PlantTables();
    CpuConfig config;
    const uint8_t setup = input.Byte();
    config.caches = *CachePreset((setup & 1) != 0 ? "tiny" : "none");
    config.policy = (setup & 2) != 0 ? CachePolicy::kAdversarial : CachePolicy::kRealistic;
    config.features.physical_address_bits = 32 + (setup >> 2) % 21;
    Cpu cpu(PhysicalMemory(bytes_, kMemory), config);
    if ((setup & 0x80) != 0) cpu.SetFlushOracle(&oracle_);
    if (charged) cpu.SetCostModel(*DataCachePreset("flat"));
    cpu.Enter(Eptp(0x1e));
    while (!input.empty()) Do(cpu, input);
    NoteCounts(cpu.counters());
  }

  // Returns answers and counts, in order.
  const std::vector<uint64_t>& history() const { return history_; }
  bool HasSameMemory(const Fuzzer& other) const {
    return std::memcmp(bytes_, other.bytes_, kMemory) == 0;
  }

 private:
  // Plants tables that point at each other: page n's entries lead to page n + 1.
  void PlantTables() {
    const PhysicalMemory memory(bytes_, kMemory);
    for (uint64_t at = 0; at < kMemory; at += 8) {
      memory.Store<uint64_t>(at, ((at | kPageOffsetMask) + 1) % kMemory | 0x37);
    }
  }

  void Do(Cpu& cpu, Input& input) {
    const PhysicalMemory memory(bytes_, kMemory);
    switch (input.Byte() % 12) {
      case 0:
        memory.Store<uint64_t>(input.Word(2) % kMemory & ~uint64_t{7}, input.Word());
        break;
      case 1:
        cpu.Enter(Eptp(input.Address()));
        break;
      case 2:
        LoadRegisters(cpu, input);
        break;
      case 3:
        LoadControls(cpu, input);
        break;
      case 4:
        Invalidate(cpu, input);
        break;
      case 5:
        cpu.LoadPdptes();
        break;
      case 6:
        CheckAnswer(cpu, cpu.AccessGpa(Gpa(input.Address()), KindOf(input.Byte())));
        break;
      default: {
        AccessRequest request;
        request.gva = input.Address();
        const uint8_t bits = input.Byte();
        request.kind = KindOf(bits);
        request.accessor = static_cast<Accessor>(bits >> 2 & 1);
        request.size = 1u << (bits >> 3 & 7);
        request.shadow_stack = (bits & 0xc0) == 0xc0;
        CheckAnswer(cpu, cpu.Access(request));
      }
    }
  }

  static AccessKind KindOf(uint8_t bits) { return static_cast<AccessKind>(bits & 3); }

  static void LoadRegisters(Cpu& cpu, Input& input) {
    Registers registers;
    const uint64_t bits = input.Word(4);
    registers.cr0 = (bits & 1) | ((bits & 2) != 0 ? kCr0Wp : 0) | ((bits & 4) != 0 ? kCr0Pg : 0) |
                    ((bits & 8) != 0 ? kCr0Cd : 0);
    registers.cr4 = (bits >> 4 & 0xffff) << 4 | ((bits & 0x100000) != 0 ? kCr4La57 : 0);
    registers.efer = ((bits & 0x200000) != 0 ? kEferNxe : 0) |
                     ((bits & 0x400000) != 0 ? kEferLme | kEferLma : 0);
    registers.cpl = (bits & 0x800000) != 0 ? 3 : 0;
    registers.pkru = static_cast<uint32_t>(bits);
    registers.cr3 = input.Address();
    cpu.SetRegisters(registers);
  }

  static void LoadControls(Cpu& cpu, Input& input) {
    Controls controls;
    const uint64_t bits = input.Word(2);
    controls.ept = (bits & 1) != 0;
    controls.vpid = bits >> 1 & 1;
    controls.mbec = (bits & 4) != 0;
    controls.paging_write = (bits & 8) != 0;
    controls.guest_paging_verification = (bits & 16) != 0;
    controls.pml = (bits & 32) != 0;
    controls.ve = (bits & 64) != 0;
    controls.spp = (bits & 128) != 0;
    controls.eptp_switching = (bits & 256) != 0;
    controls.pml_address = Hpa(kMemory - kPageSize);
    controls.ve_information = Hpa(kMemory - 2 * kPageSize);
    controls.sppt_root = Hpa(kMemory - 3 * kPageSize);
    controls.eptp_list = Hpa(kMemory - 4 * kPageSize);
    TDP_CHECK(cpu.SetControls(controls).ok());
    cpu.set_pml_index(static_cast<uint16_t>(input.Word(2)));
  }

  static void Invalidate(Cpu& cpu, Input& input) {
    const uint8_t what = input.Byte();
    const uint64_t word = input.Address();
    switch (what % 8) {
      case 0:
        cpu.Invlpg(Gva(word));
        break;
      case 1:
        cpu.InveptAll();
        break;
      case 2:
        cpu.InveptSingle(Eptp(word));
        break;
      case 3:
        cpu.Invvpid(what >> 3 & 7, static_cast<uint16_t>(word & 3), Gva(word));
        break;
      case 4:
        cpu.Invpcid(what >> 3 & 7, static_cast<uint16_t>(word & 3), Gva(word));
        break;
      case 5:
        // Some of those that a CPU takes keep translations.
        cpu.WriteCr3(word < kMemory ? word | uint64_t{what >> 3 & 1u} << 63 : word);
        break;
      case 6:
        cpu.WriteCr4(cpu.registers().cr4 ^ (word & (kCr4Pge | kCr4Pcide | kCr4Smep | kCr4Pse)));
        break;
      default:
        cpu.Vmfunc(what >> 3 & 1, static_cast<uint32_t>(word % 520));
    }
  }

  // Checks that an answer is an address within the CPU's physical width, or an event that `exit`
  // describes.
  void CheckAnswer(const Cpu& cpu, const AccessResult& result) {
    NoteAnswer(cpu.exit(), result);
    const uint64_t limit = uint64_t{1} << cpu.features().physical_address_bits;
    if (result.ok()) {
      // Without EPT a guest-physical address is the host's, whatever its width.
      if (cpu.controls().ept) TDP_CHECK_LT(result.hpa.raw(), limit);
      TDP_CHECK_LE(result.ept_level, 3);
      TDP_CHECK_LE(result.guest_level, 3);
      return;
    }
    TDP_CHECK_EQ(static_cast<int>(cpu.exit().event), static_cast<int>(result.event));
    if (result.event == Event::kEptViolation) {
      TDP_CHECK(cpu.exit().qualification.Check().ok());
    }
  }

  void NoteAnswer(const Exit& exit, const AccessResult& result) {
    history_.push_back(static_cast<uint64_t>(result.event));
    if (result.ok()) {
      history_.push_back(result.hpa.raw());
      history_.push_back(static_cast<uint64_t>(result.memory_type));
      history_.push_back(result.ept_level << 8 | result.guest_level);
    } else {
      history_.insert(history_.end(), {exit.qualification.raw(), exit.gpa.raw(), exit.gva.raw(),
                                       exit.error_code, exit.length});
    }
  }
  void NoteCounts(const CpuCounters& c) {
    history_.insert(history_.end(), {c.tlb_hits, c.walks, c.nested_tlb_hits, c.guest_cache_hits,
                                     c.ept_cache_hits, c.events});
    for (int row = 0; row < ReferenceCounts::kLevels; ++row) {
      history_.push_back(c.references.guest[row]);
      history_.insert(history_.end(), c.references.ept[row].begin(), c.references.ept[row].end());
    }
  }

  std::vector<uint64_t> history_;
  FlushOracle oracle_{FlushOracleOptions{.every_use = true, .settle_at_once = true}};
  std::byte* bytes_;
};

}  // namespace
}  // namespace tdp::sim

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tdp::sim::Fuzzer quiet;
  quiet.Run(tdp::sim::Input(data, size), /*charged=*/false);
  tdp::sim::Fuzzer full;
  full.Run(tdp::sim::Input(data, size), /*charged=*/true);
  TDP_CHECK(quiet.history() == full.history());
  TDP_CHECK(quiet.HasSameMemory(full));
  return 0;
}
