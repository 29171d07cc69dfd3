// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests hold the model of a core's MMU against a second one that shares no code with it, and
// against numbers by hand where a few say all.

#include "tdp/backends/sim/mmu_model.h"

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/tests/sim/mmu_reference.h"

namespace tdp::sim {
namespace {

constexpr uint64_t kGuestBits = 0x27;  // present, writable, user, accessed
constexpr uint64_t kGuestDirty = 0x40;
constexpr uint64_t kEptBits = 0x137;  // rights, write-back, accessed
constexpr uint64_t kEptDirty = 0x200;
constexpr uint64_t kLargeBit = 0x80;

// Has memory of 4 MiB for tables; nobody reads the pages that lie behind them.
class Tables {
 public:
  Tables() : bytes_(uint64_t{4} << 20) {}

  PhysicalMemory memory() { return PhysicalMemory(bytes_.data(), bytes_.size()); }
  uint64_t Load(uint64_t hpa) const {
    uint64_t word;
    std::memcpy(&word, bytes_.data() + hpa, sizeof(word));
    return word;
  }
  void Store(uint64_t hpa, uint64_t word) { std::memcpy(bytes_.data() + hpa, &word, sizeof(word)); }
  uint64_t NewTable() { return next_ += 4096; }

  // Maps the page at `from`, of `page` level or as large as the tables under `root` leave room for,
  // to where `to` lies. A page that is mapped already stays as it is.
  void Map(uint64_t root, int levels, uint64_t from, uint64_t to, int page, uint64_t table_bits,
           uint64_t leaf_bits) {
    uint64_t table = root;
    for (int level = levels;; --level) {
      const uint64_t place = table + (from >> (3 + 9 * level)) % 512 * 8;
      if (level <= page && Load(place) == 0) {
        const uint64_t size = uint64_t{1} << (3 + 9 * level);
        Store(place, (to & ~(size - 1)) | leaf_bits | (level > 1 ? kLargeBit : 0));
      }
      if (Load(place) == 0) Store(place, NewTable() | table_bits);
      if (level == 1 || (Load(place) & kLargeBit) != 0) return;
      table = Load(place) & 0xffffffffff000;
    }
  }

 private:
  std::vector<std::byte> bytes_;
  uint64_t next_ = 0;
};

MmuShape RandomShape(std::mt19937_64& random) {
  MmuShape shape;
  shape.sets = 1 + random() % 5;
  shape.replacement = random() % 2 == 0 ? Replacement::kLru : Replacement::kTreePlru;
  shape.ways = shape.replacement == Replacement::kLru ? 1 + random() % 7 : 1u << random() % 4;
  shape.cycles = static_cast<int>(random() % 10);
  return shape;
}

MmuConfig RandomConfig(std::mt19937_64& random) {
  MmuConfig config;
  const auto pages = [&random] { return static_cast<unsigned>(1 + random() % 7) << 1; };
  for (uint64_t i = random() % 6; i > 0; --i) {
    config.tlbs.push_back({"", 1 + static_cast<int>(random() % 2),
                           static_cast<unsigned>(1 + random() % 7), pages(), RandomShape(random)});
  }
  for (const bool ept : {false, true}) {
    for (int level = 2; level <= 5; ++level) {
      if (random() % 2 == 0) config.walk_caches.push_back({"", ept, level, RandomShape(random)});
    }
  }
  for (uint64_t i = random() % 3; i > 0; --i) {
    config.nested_tlbs.push_back({"", pages(), RandomShape(random)});
  }
  for (int level = 1; level <= 3; ++level) {
    config.data_caches.push_back(
        {"", level, static_cast<unsigned>(random() % 16), RandomShape(random)});
  }
  config.memory_cycles = 100;
  config.program_data = random() % 2 == 0;
  return config;
}

// Returns an address of a program, of all 57 bits with five levels: a few pages come often, others
// rarely.
uint64_t RandomAddress(std::mt19937_64& random, int levels) {
  const uint64_t page = random() % (1 + random() % 64);
  const uint64_t top = levels == 5 ? (page % 3) * 0xcf << 48 : 0;
  // The upper half repeats its highest bit.
  const uint64_t sign = (top >> 56 & 1) != 0 ? ~uint64_t{0} << 57 : 0;
  return sign | top | (page % 4) << 39 | (page % 3) << 30 | (page % 5) << 21 | (page % 7) << 12 |
         random() % 4096;
}

class TwoModels {
 public:
  TwoModels(std::mt19937_64& random, bool ept)
      : random_(random),
        config_(RandomConfig(random)),
        levels_(4 + static_cast<int>(random() % 2)),
        ept_levels_(4 + static_cast<int>(random() % 2)),
        has_ept_(ept),
        ept_root_(tables_.NewTable()),
        roots_{NewGuestTable(), NewGuestTable()},
        model_(config_, tables_.memory()),
        reference_(config_, [this](uint64_t hpa) { return tables_.Load(hpa); }) {
    Use(0);
  }

  void Run(int steps) {
    for (int step = 0; step < steps && !testing::Test::HasFailure(); ++step) {
      const uint64_t what = random_() % 200;
      const uint64_t gva = RandomAddress(random_, levels_);
      if (what == 0) {
        model_.Invlpg(gva);
        reference_.Invlpg(gva);
      } else if (what == 1) {
        Use(random_() % 2);
      } else if (what == 2) {
        const auto pcid = static_cast<uint16_t>(1 + random_() % 2);
        model_.FlushPcid(pcid);
        reference_.FlushPcid(pcid);
      } else if (what == 3) {
        model_.FlushAll();
        reference_.FlushAll();
      } else {
        Access(gva);
      }
    }
    Compare();
  }

 private:
  static constexpr uint64_t kPages = uint64_t{1} << 35;  // where guest pages are

  // Guest tables are reached through the EPT, which maps them to where they are.
  uint64_t NewGuestTable() { return tables_.NewTable(); }

  void Use(size_t space) {
    space_ = space;
    MmuSpace mine;
    mine.cr3 = roots_[space];
    mine.guest_levels = levels_;
    mine.pcid = static_cast<uint16_t>(space + 1);
    mine.ept = has_ept_;
    if (has_ept_) mine.eptp = Eptp::Make(Hpa(ept_root_), ept_levels_, true);
    model_.SetSpace(mine);
    reference_.cr3 = roots_[space];
    reference_.guest_levels = levels_;
    reference_.pcid = space + 1;
    if (has_ept_) reference_.ept_root = ept_root_;
    reference_.ept_levels = ept_levels_;
    // A first space is a new EPT for the model, which drops what nobody has kept yet.
  }

  // Does what a kernel, a hypervisor and the CPU do before the access succeeds.
  void Prepare(uint64_t gva, bool store) {
    const int page = 1 + static_cast<int>((gva >> 21) % 3);
    const uint64_t gpa = kPages + ((gva * 7) & 0x3'ffff'ffffu);
    tables_.Map(roots_[space_], levels_, gva, gpa, page, kGuestBits, kGuestBits);
    SetDirty(roots_[space_], levels_, gva, store ? kGuestDirty : 0);
    if (!has_ept_) return;
    for (uint64_t table = 0; table < uint64_t{4} << 20; table += 4096) {
      tables_.Map(ept_root_, ept_levels_, table, table, 1, kEptBits, kEptBits | kEptDirty);
    }
    const uint64_t final_gpa = GpaOf(gva);
    const int ept_page = 1 + static_cast<int>((final_gpa >> 30) % 3);
    tables_.Map(ept_root_, ept_levels_, final_gpa, (uint64_t{1} << 40) + final_gpa, ept_page,
                kEptBits, kEptBits);
    SetDirty(ept_root_, ept_levels_, final_gpa, store ? kEptDirty : 0);
  }

  uint64_t LeafPlace(uint64_t root, int levels, uint64_t address, int& level) const {
    uint64_t table = root;
    for (level = levels;; --level) {
      const uint64_t place = table + (address >> (3 + 9 * level)) % 512 * 8;
      const uint64_t entry = tables_.Load(place);
      if (level == 1 || (entry & kLargeBit) != 0) return place;
      table = entry & 0xffffffffff000;
    }
  }
  void SetDirty(uint64_t root, int levels, uint64_t address, uint64_t bit) {
    int level = 0;
    const uint64_t place = LeafPlace(root, levels, address, level);
    tables_.Store(place, tables_.Load(place) | bit);
  }
  uint64_t GpaOf(uint64_t gva) const {
    int level = 0;
    const uint64_t entry = tables_.Load(LeafPlace(roots_[space_], levels_, gva, level));
    const uint64_t mask = (uint64_t{1} << (3 + 9 * level)) - 1;
    return (entry & 0xffffffffff000 & ~mask) | (gva & mask);
  }

  void Access(uint64_t gva) {
    const auto kind = static_cast<AccessKind>(random_() % 4);
    const bool store = Writes(kind);
    const size_t use = kind == AccessKind::kFetch ? 0 : store ? 2 : 1;
    const unsigned size = 1u << random_() % 8;
    Prepare(gva, store);
    Prepare(gva + size - 1, store);
    const MmuAnswer answer = model_.Access(gva, kind, size);
    ASSERT_NE(answer.source, MmuSource::kUnmapped);
    ASSERT_EQ(answer.hpa, reference_.Access(gva, use, size)) << std::hex << gva;
  }

  void Compare() const {
    const MmuCounters& a = model_.counters();
    const MmuCounters& b = reference_.counters;
    EXPECT_EQ(a.accesses, b.accesses);
    EXPECT_EQ(a.l1_hits, b.l1_hits);
    EXPECT_EQ(a.l2_hits, b.l2_hits);
    EXPECT_EQ(a.walks, b.walks);
    EXPECT_EQ(a.assists, b.assists);
    EXPECT_EQ(a.full_walks, b.full_walks);
    EXPECT_EQ(a.guest_cache_hits, b.guest_cache_hits);
    EXPECT_EQ(a.nested_tlb_lookups, b.nested_tlb_lookups);
    EXPECT_EQ(a.nested_tlb_hits, b.nested_tlb_hits);
    EXPECT_EQ(a.ept_walks, b.ept_walks);
    EXPECT_EQ(a.ept_cache_hits, b.ept_cache_hits);
    EXPECT_EQ(a.references, b.references);
    EXPECT_EQ(a.reference_cycles, b.reference_cycles);
    EXPECT_EQ(a.l2_hit_cycles, b.l2_hit_cycles);
    EXPECT_EQ(a.l2_miss_cycles, b.l2_miss_cycles);
    EXPECT_EQ(a.guest_cache_cycles, b.guest_cache_cycles);
    EXPECT_EQ(a.ept_cache_cycles, b.ept_cache_cycles);
    EXPECT_EQ(a.nested_tlb_cycles, b.nested_tlb_cycles);
    EXPECT_EQ(a.program_served, b.program_served);
    EXPECT_EQ(a.program_cycles, b.program_cycles);
    EXPECT_EQ(a.total_accesses(), a.total_walks() + a.l1_hits[0] + a.l1_hits[1] + a.l1_hits[2] +
                                      a.l2_hits[0] + a.l2_hits[1] + a.l2_hits[2]);
  }

  std::mt19937_64& random_;
  const MmuConfig config_;
  const int levels_;
  const int ept_levels_;
  const bool has_ept_;
  Tables tables_;
  const uint64_t ept_root_;
  const uint64_t roots_[2];
  size_t space_ = 0;
  MmuModel model_;
  MmuReference reference_;
};

TEST(MmuModel, CountsAndTimesAsASecondModelDoes) {
  for (uint64_t seed = 1; seed <= 60 && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    TwoModels models(random, seed % 3 != 0);
    models.Run(2000);
  }
}

// --- by hand ---

struct Native {
  Tables tables;
  uint64_t root = tables.NewTable();

  void Map(uint64_t gva, int page) {
    tables.Map(root, 4, gva, (uint64_t{1} << 36) + gva, page, kGuestBits, kGuestBits | kGuestDirty);
  }
  MmuModel Model(const MmuConfig& config) {
    MmuModel model(config, tables.memory());
    MmuSpace space;
    space.cr3 = root;
    model.SetSpace(space);
    return model;
  }
};

constexpr unsigned kAllUses = kUseFetch | kUseLoad | kUseStore;

TEST(MmuModel, ASharedSecondLevelHoldsAsManyPagesAsItHasEntriesWhateverTheirSizes) {
  Native native;
  MmuConfig config;
  config.tlbs = {{"L2", 2, kAllUses, PageBit(1) | PageBit(2), {1, 8, Replacement::kLru, 7}}};
  MmuModel model = native.Model(config);
  const auto touch = [&](uint64_t small, uint64_t large) {
    for (uint64_t i = 0; i < small; ++i) model.Access(i << 12, AccessKind::kLoad, 1);
    for (uint64_t i = 1; i <= large; ++i) model.Access(i << 21, AccessKind::kLoad, 1);
  };
  for (uint64_t i = 0; i < 8; ++i) native.Map(i << 12, 1);
  for (uint64_t i = 1; i <= 8; ++i) native.Map(i << 21, 2);
  touch(4, 4);
  EXPECT_EQ(model.counters().total_walks(), 8u);
  touch(4, 4);
  EXPECT_EQ(model.counters().total_walks(), 8u) << "eight pages fit";
  model.FlushAll();
  touch(5, 4);
  touch(5, 4);
  EXPECT_EQ(model.counters().total_walks(), 8u + 18u) << "nine do not, in turn and LRU";
  EXPECT_EQ(model.counters().l2_hit_cycles, 8u * 7u);
}

TEST(MmuModel, APageThatALevelHasNoRoomForIsKeptInSmallerParts) {
  Native native;
  native.Map(uint64_t{1} << 30, 3);
  MmuConfig config;
  config.tlbs = {{"L1", 1, kAllUses, PageBit(3), {1, 1, Replacement::kLru, 0}},
                 {"L2", 2, kUseLoad, PageBit(1) | PageBit(2), {1, 4, Replacement::kLru, 7}}};
  MmuModel model = native.Model(config);
  const uint64_t gva = uint64_t{1} << 30;
  EXPECT_EQ(model.Access(gva, AccessKind::kLoad, 1).source, MmuSource::kFullWalk);
  EXPECT_EQ(model.Access(gva + (5 << 21), AccessKind::kLoad, 1).source, MmuSource::kL1)
      << "the first level has the page whole";
  config.tlbs.erase(config.tlbs.begin());
  MmuModel parts = native.Model(config);
  EXPECT_EQ(parts.Access(gva, AccessKind::kLoad, 1).source, MmuSource::kFullWalk);
  EXPECT_EQ(parts.Access(gva + 4096, AccessKind::kLoad, 1).source, MmuSource::kL2);
  EXPECT_EQ(parts.Access(gva + (5 << 21), AccessKind::kLoad, 1).source, MmuSource::kFullWalk);
  EXPECT_EQ(parts.Access(gva + (5 << 21) + 12345, AccessKind::kLoad, 1).hpa,
            (uint64_t{1} << 36) + gva + (5 << 21) + 12345);
}

TEST(MmuModel, TheProgramsDataPushTableEntriesOutOfTheCaches) {
  for (const bool program_data : {false, true}) {
    Native native;
    MmuConfig config;
    config.data_caches = {{"L1D", 1, kAllUses | kUseWalk, {1, 8, Replacement::kLru, 4}}};
    config.memory_cycles = 200;
    config.program_data = program_data;
    native.Map(0, 1);
    MmuModel model = native.Model(config);
    for (int round = 0; round < 2; ++round) {
      for (uint64_t line = 0; line < 16; ++line) {
        model.Access(line * 64, AccessKind::kLoad, 1);
      }
    }
    // A walk reads four entries. They stay if nothing else comes; a line of data for each walk
    // leaves them in too, since four and one are fewer than eight lines.
    EXPECT_EQ(model.counters().ReferencesServed(false, 3), 4u);
    EXPECT_EQ(model.counters().ReferenceCycles(false), 4u * 200 + 31u * 4 * 4);
    for (int round = 0; round < 2; ++round) model.Access(round * 4096u, AccessKind::kLoad, 1024);
    EXPECT_EQ(model.counters().program_cycles != 0, program_data);
  }
}

TEST(MmuModel, ThePagesOfEveryLevelOfFiveAreFound) {
  Tables tables;
  const uint64_t root = tables.NewTable();
  const uint64_t gva = uint64_t{0x5a} << 48 | 0x123456789;
  tables.Map(root, 5, gva, uint64_t{1} << 36, 1, kGuestBits, kGuestBits);
  MmuModel model(MmuConfig(), tables.memory());
  MmuSpace space;
  space.cr3 = root;
  space.guest_levels = 5;
  model.SetSpace(space);
  EXPECT_EQ(model.Access(gva, AccessKind::kLoad, 1).hpa, (uint64_t{1} << 36) + 0x789);
  EXPECT_EQ(model.counters().references[5][0][3], 1u);
  EXPECT_EQ(model.Access(gva + 4096, AccessKind::kLoad, 1).source, MmuSource::kUnmapped);
}

}  // namespace
}  // namespace tdp::sim
