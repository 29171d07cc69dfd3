// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Page tables in images of memory are read here: of a real guest, and of a machine of this
// library's own.

#include <elf.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/trace_files.h"
#include "tdp/tools/image/leaf_map.h"
#include "tdp/tools/image/memory_image.h"
#include "tdp/tools/image/root_search.h"
#include "tdp/tools/image/table_walk.h"
#include "tdp/tools/replay/cpu_runner.h"
#include "tdp/tools/replay/machine.h"
#include "tdp/tools/trace/byte_source.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kLinux[] = "tests/tools/data/linux_tables.core.zst";
constexpr char kLinuxTlb[] = "tests/tools/data/linux_tables.info_tlb.zst";

ProgramResult Tdp(const std::string& arguments) { return RunProgram("tools/tdp " + arguments); }

std::string ReadCompressed(const std::string& path) {
  const std::unique_ptr<ByteSource> source = OpenByteSource(path).value();
  std::string text(size_t{1} << 20, '\0');
  text.resize(source->Read(absl::MakeSpan(text)).value());
  return text;
}

// --- a real guest ---

TEST(TdpMap, FindsInALinuxGuestWhatQemuFinds) {
  const std::unique_ptr<MemoryImage> image = MemoryImage::Open(kLinux, 0).value();
  ASSERT_EQ(image->cpus().size(), 1u);
  const TableRoots roots = {.guest =
                                GuestRegisters(sim::PagingMode::k4Level, image->cpus()[0].cr3)};
  const TableWalker walker(*image, roots);
  const LeafMap map = ReadLeafMap(walker).value();
  EXPECT_EQ(map.problem_count, 0u);
  // Each line has the page, where it leads, and flags: X for no execution, G, P for a large page.
  size_t run = 0;
  uint64_t lines = 0;
  for (std::string_view line : absl::StrSplit(ReadCompressed(kLinuxTlb), '\n', absl::SkipEmpty())) {
    ++lines;
    uint64_t gva = 0, gpa = 0;
    ASSERT_TRUE(absl::SimpleHexAtoi(line.substr(0, 16), &gva)) << line;
    ASSERT_TRUE(absl::SimpleHexAtoi(line.substr(18, 16), &gpa)) << line;
    const std::string_view flags = line.substr(35);
    while (run < map.runs.size() && map.runs[run].end() - 1 < gva) ++run;
    ASSERT_LT(run, map.runs.size()) << line;
    EXPECT_EQ(map.runs[run].to + (gva - map.runs[run].from), gpa) << line;
    EXPECT_EQ(map.runs[run].shift > 12, flags[2] == 'P') << line;
    EXPECT_EQ((map.runs[run].attributes & sim::kGuestGlobal) != 0, flags[1] == 'G') << line;
    const TableWalk walk = walker.WalkLinear(gva, WalkAccess::kRead, false);
    EXPECT_EQ(walk.end, WalkEnd::kMapped) << line;
    EXPECT_EQ(walk.gpa, gpa) << line;
  }
  EXPECT_EQ(lines, 8381u);
  EXPECT_EQ(lines, map.leaves[1] + map.leaves[2]);
}

TEST(TdpWalk, ShowsEachReferenceAndTakesCr3FromTheDump) {
  const ProgramResult result = Tdp(absl::StrCat("walk ", kLinux, " 0x400123"));
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out,
            "CR3 0x2968000 (4-level)\n"
            "gva 0x400123\n"
            "  guest   PML4E at 0x000002968000  0x000000000299f067  rwxu\n"
            "  guest   PDPTE at 0x00000299f000  0x00000000029b4067  rwxu\n"
            "  guest   PDE   at 0x0000029b4010  0x000000000299b067  rwxu\n"
            "  guest   PTE   at 0x00000299b000  0x80000000096af025  r--u\n"
            "  -> 0x96af123  (guest page of 4 KiB, r--u); 4 references\n");
  const ProgramResult write = Tdp(absl::StrCat("walk --access write --user ", kLinux, " 0x400123"));
  EXPECT_EQ(write.status, 1);
  EXPECT_THAT(write.out, HasSubstr("#PF, error code 0x7: a write by user mode; a page is mapped"));
  EXPECT_THAT(Tdp(absl::StrCat("walk ", kLinux, " 0x800000000000")).out,
              HasSubstr("not a canonical address"));
  // This address goes through a root of PAE paging that is none.
  EXPECT_EQ(Tdp(absl::StrCat("walk --guest-paging pae ", kLinux, " 0x400123")).status, 1);
}

TEST(TdpMap, SeesNoEptRootInAGuestThatHasNone) {
  const ProgramResult result = Tdp(absl::StrCat("map --find-roots ", kLinux));
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(result.out, "0 EPT roots\n");
}

// --- a machine of our own ---

// Is a machine on which a program has touched pages that are not neighbours.
class OwnMachine {
 public:
  explicit OwnMachine(int pages = 40) {
    ReplayOptions options;
    options.ram = MiB(64);
    options.ept_page = kLevel4K;
    options.shuffled = true;
    machine_ = Machine::Create(options).value();
    std::vector<TraceRecord> records;
    for (int i = 0; i < pages; ++i) {
      records.push_back(TraceRecord::Make(Gva(0x10000) + kPageSize * 3 * i, AccessKind::kStore, 3));
    }
    EXPECT_TRUE(CpuRunner(*machine_, 0).Run(records).ok());
  }

  Machine& machine() { return *machine_; }
  TableRoots roots() {
    return {.eptp = machine_->vm().eptp(), .guest = machine_->ProgramRegisters()};
  }

  // Writes the memory to a file, in which a hole stands for zeros.
  std::string Image(const std::string& name) {
    const std::string path = absl::StrCat(testing::TempDir(), "/", name);
    std::ofstream file(path, std::ios::binary);
    const sim::HostMemory& host = machine_->host();
    const std::string zero(4096, '\0');
    for (uint64_t at = 0; at < host.size(); at += 4096) {
      const char* page = reinterpret_cast<const char*>(host.At(Hpa(at)));
      if (std::memcmp(page, zero.data(), 4096) == 0) continue;
      file.seekp(static_cast<std::streamoff>(at)).write(page, 4096);
    }
    return path;
  }

 private:
  std::unique_ptr<Machine> machine_;
};

TEST(TableWalk, LeadsWhereTheSlotsPutEachPageInTwoDimensions) {
  OwnMachine own;
  const std::unique_ptr<MemoryImage> image = MemoryImage::Open(own.Image("two"), 0).value();
  const TableWalker walker(*image, own.roots());
  size_t checked = 0;
  for (const GuestMapping& mapping : own.machine().kernel().mappings()) {
    const TableWalk walk = walker.WalkLinear(mapping.gva.raw() + 0x21, WalkAccess::kWrite, true);
    ASSERT_EQ(walk.end, WalkEnd::kMapped);
    EXPECT_EQ(walk.gpa, mapping.gpa.raw() + 0x21);
    EXPECT_EQ(walk.hpa, own.machine().HpaBySlots(mapping.gpa).value().raw() + 0x21);
    EXPECT_EQ(walk.steps.size(), 24u);
    ++checked;
  }
  EXPECT_EQ(checked, 40u);
}

TEST(TableWalk, ReportsAViolationAsTheSimulatorDoes) {
  OwnMachine own;
  const Gpa gpa = own.machine().kernel().mappings()[7].gpa;
  const Gva gva = own.machine().kernel().mappings()[7].gva;
  own.machine().vm().ZapRange(Gfn::Of(gpa), PageCount(1)).value().Settle();
  const std::unique_ptr<MemoryImage> image = MemoryImage::Open(own.Image("hole"), 0).value();
  const TableWalk walk =
      TableWalker(*image, own.roots()).WalkLinear(gva.raw(), WalkAccess::kWrite, true);
  EXPECT_EQ(walk.end, WalkEnd::kViolation);
  EXPECT_EQ(walk.gpa, gpa.raw());
  EXPECT_EQ(walk.qualification, 0x182u);
}

TEST(LeafMap, HoldsEveryPageOfTheEptOnce) {
  OwnMachine own;
  const std::unique_ptr<MemoryImage> image = MemoryImage::Open(own.Image("map"), 0).value();
  const TableWalker walker(*image, {.eptp = own.machine().vm().eptp()});
  const LeafMap map = ReadLeafMap(walker).value();
  EXPECT_EQ(map.problem_count, 0u);
  uint64_t bytes = 0;
  for (const LeafRun& run : map.runs) {
    bytes += run.bytes;
    for (uint64_t at = 0; at < run.bytes; at += kPageSize) {
      EXPECT_EQ(own.machine().HpaBySlots(Gpa(run.from + at)).value().raw(), run.to + at);
    }
  }
  EXPECT_EQ(bytes, map.leaves[1] * kPageSize);
  EXPECT_GT(map.leaves[1], 40u);
}

TEST(LeafMap, TheDifferenceOfTwoImagesIsWhatWasDone) {
  OwnMachine own;
  const std::string before = own.Image("before");
  const Gpa gpa = own.machine().kernel().mappings()[7].gpa;
  own.machine().vm().ZapRange(Gfn::Of(gpa), PageCount(1)).value().Settle();
  const std::string after = own.Image("after");
  const std::string eptp = absl::StrFormat("0x%x", own.machine().vm().eptp().raw());
  const std::string command = absl::StrCat("map --eptp ", eptp, " --diff '", before, "' '");
  const ProgramResult changed = Tdp(absl::StrCat(command, after, "'"));
  EXPECT_EQ(changed.status, 1) << changed.err;
  EXPECT_THAT(std::vector<std::string>(absl::StrSplit(changed.out, '\n')),
              ElementsAre(HasSubstr(absl::StrFormat("- 0x%012x-0x%012x ->", gpa.raw(),
                                                    gpa.raw() + kPageSize - 1)),
                          "1 differences", ""));
  const ProgramResult same = Tdp(absl::StrCat(command, before, "'"));
  EXPECT_EQ(same.status, 0) << same.err;
  EXPECT_EQ(same.out, "0 differences\n");
}

// Makes a map of the runs given, as {from, to, pages, attributes}.
LeafMap MapOf(const std::vector<std::array<uint64_t, 4>>& runs) {
  LeafMap map;
  for (const auto& [from, to, pages, attributes] : runs) {
    map.runs.push_back({from << 12, to << 12, pages << 12, 12, attributes});
  }
  return map;
}

TEST(CompareLeafMaps, SplitsRunsWhereTheyDiffer) {
  const LeafMap before = MapOf({{0, 100, 10, 7}, {20, 300, 4, 7}});
  const LeafMap after = MapOf({{0, 100, 4, 7}, {4, 104, 1, 5}, {6, 106, 4, 7}, {20, 400, 4, 7}});
  const std::vector<LeafChange> changes = CompareLeafMaps(before, after);
  ASSERT_EQ(changes.size(), 3u);
  EXPECT_EQ(changes[0].before, MapOf({{4, 104, 1, 7}}).runs[0]);
  EXPECT_EQ(changes[0].after, MapOf({{4, 104, 1, 5}}).runs[0]);
  EXPECT_EQ(changes[1].before, MapOf({{5, 105, 1, 7}}).runs[0]);
  EXPECT_EQ(changes[1].after.bytes, 0u);
  EXPECT_EQ(changes[2].before, MapOf({{20, 300, 4, 7}}).runs[0]);
  EXPECT_EQ(changes[2].after, MapOf({{20, 400, 4, 7}}).runs[0]);
  EXPECT_THAT(CompareLeafMaps(before, before), IsEmpty());
  // The run may be the last page of the address space.
  EXPECT_EQ(CompareLeafMaps(MapOf({{(uint64_t{1} << 52) - 1, 0, 1, 7}}), {}).size(), 1u);
}

TEST(FindEptRoots, FindsTheOnesOfAllMachinesAndNoOther) {
  OwnMachine own;
  const std::unique_ptr<MemoryImage> image = MemoryImage::Open(own.Image("roots"), 0).value();
  const std::vector<EptRoot> roots = FindEptRoots(*image, 46);
  ASSERT_EQ(roots.size(), 1u);
  EXPECT_EQ(roots[0].eptp.root(), own.machine().vm().eptp().root());
  EXPECT_EQ(roots[0].eptp.levels(), own.machine().vm().eptp().levels());
  const LeafMap map = ReadLeafMap(TableWalker(*image, {.eptp = own.machine().vm().eptp()})).value();
  EXPECT_EQ(roots[0].leaves, map.leaves[1] + map.leaves[2] + map.leaves[3]);
}

TEST(TdpMap, NamesTheRuleThatAnEntryBreaks) {
  // This is a table of level 4 whose first entry leads back to it, as if of level 3, where it is
  // legal.
  std::vector<uint64_t> table(512);
  table[0] = 0x7;
  table[1] = 0x2;  // W without R
  table[2] = 0x10000007;
  std::string bytes(4096, '\0');
  std::memcpy(bytes.data(), table.data(), 4096);
  const std::string path = WriteFile("broken", bytes);
  const ProgramResult result = Tdp("map --eptp 0x1e '" + path + "'");
  EXPECT_EQ(result.status, 1) << result.err;
  EXPECT_THAT(result.out, HasSubstr("it has W (bit 1) without R (bit 0) (SDM vol. 3C, 29.3.3.1"));
  EXPECT_THAT(result.out, HasSubstr("a table of level 3 at 0x10000000 is not in the image"));
}

TEST(TdpMap, TablesThatLeadBackToThemselvesEnd) {
  std::vector<uint64_t> table(512, 0x7);
  std::string bytes(4096, '\0');
  std::memcpy(bytes.data(), table.data(), 4096);
  const ProgramResult result = Tdp("map --eptp 0x1e '" + WriteFile("loop", bytes) + "'");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("the tables lead back to themselves"));
}

// --- bad input ---

void ExpectRefusal(const std::string& arguments, const std::string& message) {
  const ProgramResult result = Tdp(arguments);
  EXPECT_EQ(result.status, 2) << arguments;
  EXPECT_EQ(result.out, "") << arguments;
  EXPECT_THAT(result.err, HasSubstr(message));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

TEST(MemoryImage, RefusesInOneLineWhatIsNoImage) {
  using namespace std::string_view_literals;
  const std::string core = ReadCompressed(kLinux);
  const auto image = [](const std::string& name, std::string_view bytes) {
    return absl::StrCat("walk --cr3 0 '", WriteFile(name, std::string(bytes)), "' 0");
  };
  ExpectRefusal("walk --cr3 0 /no/such/image 0", "/no/such/image: No such file");
  ExpectRefusal("walk --cr3 0 /dev/null 0", "/dev/null: not a regular file");
  ExpectRefusal("walk --cr3 0 /proc 0", "/proc: not a regular file");
  ExpectRefusal(image("empty", ""), "empty: the file is empty");
  ExpectRefusal(image("kdump", "KDUMP   and so on"), "kdump: a compressed kdump file");
  ExpectRefusal(image("stream", "QEVM\0\0\0\3"sv), "a QEMU migration stream");
  ExpectRefusal(image("head", std::string_view(core).substr(0, 40)),
                "offset 0x0: the file ends in the ELF header");
  ExpectRefusal(image("cut", std::string_view(core).substr(0, core.size() / 2)),
                "the file ends in a segment");
  std::string other = core;
  other[16] = ET_EXEC;
  ExpectRefusal(image("program", other), "offset 0x10: an ELF file that is no core");
  other = core;
  other[18] = EM_ARM;
  ExpectRefusal(image("arm", other), "a core of machine 40, not of x86");
  other = core;
  other[EI_DATA] = ELFDATA2MSB;
  ExpectRefusal(image("big", other), "not a little-endian ELF file");
  // A core of a process has no physical addresses.
  other = core;
  for (size_t at = 64; at < 64 + 21 * 56; at += 56) std::memset(&other[at + 24], 0, 8);
  ExpectRefusal(image("process", other), "of a process, not of a machine");
}

TEST(MemoryImage, AnyCutOfACoreIsRefusedOrReadInOneLine) {
  const std::string core = ReadCompressed(kLinux);
  for (size_t size = 1; size < 3000; size += 97) {
    const auto image = MemoryImage::Open(WriteFile("cut", core.substr(0, size)), 0);
    // Fewer than four bytes are not known to be ELF.
    EXPECT_EQ(image.ok(), size < 4) << size;
  }
}

TEST(TdpWalk, RefusesBadOptionsByName) {
  const std::string raw = "'" + WriteFile("raw", std::string(8192, '\0')) + "'";
  ExpectRefusal("walk " + raw + " 0", "needs --cr3 or --eptp");
  ExpectRefusal("walk --cr3 x " + raw + " 0", "--cr3 \"x\": must be a number of up to 64 bits");
  ExpectRefusal("walk --cr3 0x10000000000000000 " + raw + " 0",
                "must be a number of up to 64 bits");
  ExpectRefusal("walk --cr3 0 " + raw + " zero", "address \"zero\"");
  ExpectRefusal("walk --eptp 0x0 " + raw + " 0", "--eptp: EPTP walk length");
  ExpectRefusal("walk --cr3 0 " + raw, "needs an IMAGE and an ADDRESS");
  ExpectRefusal(absl::StrCat("walk --cpu 1 ", kLinux, " 0"), "--cpu 1");
  ExpectRefusal("map", "needs one IMAGE");
  ExpectRefusal("decode", "needs a WORD=VALUE");
  ExpectRefusal("decode eptp", "\"eptp\": must be WORD=VALUE");
  ExpectRefusal("decode eptq=1", "there is no such word");
  ExpectRefusal("decode eptp=1e", "\"eptp=1e\": must be a number");
  ExpectRefusal("decode pin=1 pin=2", "it is there twice");
  ExpectRefusal("decode pin-msr=1", "an MSR alone says nothing");
  ExpectRefusal("decode --level 6 ept-entry=1", "--level \"6\"");
}

TEST(MemoryImage, ARawImageMayBeginAnywhere) {
  std::string bytes(8192, '\0');
  bytes[4096] = 0x11;
  const std::string path = WriteFile("raw", bytes);
  const std::unique_ptr<MemoryImage> image = MemoryImage::Open(path, 0x100000).value();
  EXPECT_EQ(image->Load(0x101000), 0x11u);
  EXPECT_EQ(image->Load(0x101ff8), 0u);
  EXPECT_FALSE(image->Load(0x102000).has_value());
  EXPECT_FALSE(image->Load(0xfffff).has_value());
  EXPECT_FALSE(image->Load(0).has_value());
  EXPECT_FALSE(MemoryImage::Open(path, ~uint64_t{0} - 4096).ok());
}

}  // namespace
}  // namespace tdp::tools
