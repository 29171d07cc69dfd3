// SPDX-License-Identifier: Apache-2.0

#include "tdp/tools/trace/open_trace.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/tests/tools/trace_files.h"
#include "tdp/tools/trace/binary_trace.h"

namespace tdp::tools {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<TraceRecord> RandomRecords(size_t count) {
  std::mt19937_64 random(7);
  std::vector<TraceRecord> records;
  while (records.size() < count) {
    const auto kind = static_cast<AccessKind>(random() % 4);
    const auto record = TraceRecord::Make(Gva(random() >> 17), kind, random() % 7);
    if (IsUserRecord(record)) records.push_back(record);
  }
  return records;
}

absl::StatusOr<std::vector<TraceRecord>> ReadPath(const std::string& path,
                                                  TraceFormat format = TraceFormat::kAuto) {
  absl::StatusOr<std::unique_ptr<TraceReader>> reader = OpenTrace(path, format);
  if (!reader.ok()) return reader.status();
  return ReadAll(**reader);
}

// The message of the error that reading `bytes` ends with.
std::string ErrorOf(std::string_view bytes, TraceFormat format = TraceFormat::kAuto) {
  const auto records = ReadPath(WriteFile("trace", bytes), format);
  return records.ok() ? "no error" : std::string(records.status().message());
}

TEST(OpenTrace, ReadsAPlainBinaryTrace) {
  const std::vector<TraceRecord> records = RandomRecords(5000);
  EXPECT_EQ(ReadPath(WriteFile("trace", Words(records))).value(), records);
}

TEST(OpenTrace, ReadsACompressedBinaryTraceInBatchesOfAnySize) {
  const std::vector<TraceRecord> records = RandomRecords(5000);
  const std::string path = WriteFile("trace", Zstd(Words(records)));
  for (size_t batch : {1, 2, 3, 511, 4999, 5000, 5001, 100000}) {
    auto reader = OpenTrace(path, TraceFormat::kAuto);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ(ReadAll(**reader, batch).value(), records) << batch;
  }
}

TEST(OpenTrace, ReadsSeveralFramesOneAfterTheOther) {
  const std::vector<TraceRecord> records = RandomRecords(100);
  const std::string bytes = Words(records);
  // The cut is inside a record on purpose: frames are no boundary of the format.
  const std::string path = WriteFile("trace", Zstd(bytes.substr(0, 333)) + Zstd(bytes.substr(333)));
  EXPECT_EQ(ReadPath(path).value(), records);
}

TEST(OpenTrace, ReadsWhatTheWriterWrote) {
  const std::vector<TraceRecord> records = RandomRecords(300000);
  const std::string path = WriteFile("trace", "to be replaced");
  auto writer = BinaryTraceWriter::Create(path);
  ASSERT_TRUE(writer.ok()) << writer.status();
  const auto span = absl::MakeConstSpan(records);
  ASSERT_TRUE((*writer)->Write(span.first(1)).ok());
  ASSERT_TRUE((*writer)->Write(span.subspan(1)).ok());
  ASSERT_TRUE((*writer)->Close().ok());
  EXPECT_EQ(ReadPath(path).value(), records);
}

TEST(OpenTrace, AWriterThatIsNotClosedLeavesATruncatedTrace) {
  const std::string path = WriteFile("trace", "");
  {
    auto writer = BinaryTraceWriter::Create(path);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->Write(RandomRecords(300000)).ok());
  }
  const auto records = ReadPath(path);
  EXPECT_EQ(records.status().code(), absl::StatusCode::kDataLoss) << records.status();
}

TEST(OpenTrace, EveryTruncationOfACompressedTraceIsAnError) {
  const std::string whole = Zstd(Words(RandomRecords(200)));
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::string path = WriteFile("trace", whole.substr(0, length));
    EXPECT_FALSE(ReadPath(path).ok()) << length << " of " << whole.size() << " bytes";
  }
}

TEST(OpenTrace, TruncationIsReportedWithTheByteOfTheFile) {
  const std::string whole = Zstd(Words(RandomRecords(2000)));
  EXPECT_THAT(ErrorOf(whole.substr(0, whole.size() - 7)),
              AllOf(HasSubstr("truncated"), HasSubstr(std::to_string(whole.size() - 7))));
}

TEST(OpenTrace, ATraceThatEndsInsideARecordIsTruncated) {
  const std::string words = Words(RandomRecords(3));
  EXPECT_THAT(ErrorOf(words.substr(0, 21)), AllOf(HasSubstr("truncated"), HasSubstr("byte 21")));
  EXPECT_THAT(ErrorOf(Zstd(words.substr(0, 21))),
              AllOf(HasSubstr("truncated"), HasSubstr("byte 21")));
}

TEST(OpenTrace, CorruptZstdIsDataLoss) {
  std::string bytes = Zstd(Words(RandomRecords(2000)));
  for (size_t i = 20; i < 60; ++i) bytes[i] = static_cast<char>(~bytes[i]);
  const auto records = ReadPath(WriteFile("trace", bytes));
  EXPECT_EQ(records.status().code(), absl::StatusCode::kDataLoss) << records.status();
  EXPECT_THAT(std::string(records.status().message()), HasSubstr("zstd"));
}

TEST(OpenTrace, AnUnknownRecordIsNamedWithItsByteAndItsWord) {
  std::vector<TraceRecord> records = RandomRecords(3000);
  records[2500] = TraceRecord(uint64_t{0x9} << 60 | 0x1234);
  EXPECT_THAT(ErrorOf(Words(records)), AllOf(HasSubstr("byte 20000"), HasSubstr("unknown record"),
                                             HasSubstr("0x9000000000001234")));
}

TEST(OpenTrace, AKernelAddressOrAHugeSizeIsAnUnknownRecord) {
  EXPECT_THAT(ErrorOf(Words({TraceRecord::Make(Gva(uint64_t{1} << 47), AccessKind::kLoad, 3)})),
              HasSubstr("unknown record"));
  EXPECT_THAT(ErrorOf(Words({TraceRecord::Make(Gva(0x1000), AccessKind::kLoad, 13)})),
              HasSubstr("unknown record"));
  // Its last byte is beyond the user's half.
  EXPECT_THAT(
      ErrorOf(Words({TraceRecord::Make(Gva((uint64_t{1} << 47) - 4), AccessKind::kLoad, 3)})),
      HasSubstr("unknown record"));
}

TEST(OpenTrace, AnEmptyFileIsAnError) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("empty"));
  EXPECT_THAT(ErrorOf(Zstd("")), HasSubstr("empty"));
}

TEST(OpenTrace, AFileThatIsNotThereIsNotFound) {
  const auto reader = OpenTrace("/no/such/trace", TraceFormat::kAuto);
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(reader.status().message()), HasSubstr("/no/such/trace"));
}

TEST(OpenTrace, ADirectoryIsAnError) {
  EXPECT_FALSE(OpenTrace(testing::TempDir(), TraceFormat::kAuto).ok());
}

TEST(OpenTrace, ReadsLackeyTextPlainOrCompressed) {
  const std::string text =
      "==12== Lackey, an example Valgrind tool\n"
      "\n"
      "I  04001090,3\n"
      " S 1ffefffd28,8\n"
      " L 0402a4e0,16\n"
      " M 1ffefffd20,4\n"
      "==12== Exit code: 0\n";
  const std::vector<TraceRecord> want = {
      // A size that is no power of two is rounded up.
      TraceRecord::Make(Gva(0x4001090), AccessKind::kFetch, 2),
      TraceRecord::Make(Gva(0x1ffefffd28), AccessKind::kStore, 3),
      TraceRecord::Make(Gva(0x402a4e0), AccessKind::kLoad, 4),
      TraceRecord::Make(Gva(0x1ffefffd20), AccessKind::kModify, 2),
  };
  EXPECT_EQ(ReadPath(WriteFile("text", text)).value(), want);
  EXPECT_EQ(ReadPath(WriteFile("zst", Zstd(text))).value(), want);
}

TEST(OpenTrace, ReadsLackeyTextOfManyChunks) {
  std::string text;
  std::vector<TraceRecord> want;
  for (uint64_t i = 0; i < 60000; ++i) {
    absl::StrAppend(&text, " L ", absl::Hex(0x1000 + i * 24), ",8\n");
    want.push_back(TraceRecord::Make(Gva(0x1000 + i * 24), AccessKind::kLoad, 3));
  }
  EXPECT_EQ(ReadPath(WriteFile("text", text)).value(), want);
}

TEST(OpenTrace, ALineThatIsNoRecordIsNamedByItsNumber) {
  const std::string good = "I  04001090,3\n";
  for (const char* bad :
       {"I  04001090", "I  04001090,", "I  04001090,x", "I  0400109g,3", "I 04001090,3",
        " X 04001090,3", " L ,3", " L 04001090,0", " L 04001090,5000", " L 04001090,3 ",
        " L ffffffff81000000,8", " L 11112222333344445,8", "hello", " L -4,8"}) {
    EXPECT_THAT(ErrorOf(good + good + bad + "\n" + good),
                AllOf(HasSubstr(":3: not a Lackey record"), HasSubstr(bad)));
  }
}

TEST(OpenTrace, ABinaryFileReadAsTextIsRefusedInOneShortLine) {
  const std::string error = ErrorOf(std::string(100000, '\xfe'), TraceFormat::kLackey);
  EXPECT_THAT(error, HasSubstr(":1: not a Lackey record"));
  EXPECT_LT(error.size(), 500u);
  EXPECT_EQ(error.find('\xfe'), std::string::npos) << "control characters reach the terminal";
}

TEST(OpenTrace, ReadsDynamorioText) {
  const std::string text =
      "Output format:\n"
      "<--record#-> <--instr#->: <---tid---> <record details>\n"
      "------------------------------------------------------------\n"
      "           1           0:        4321 <marker: version 6>\n"
      "           2           1:        4321 ifetch       3 byte(s) @ 0x0000000000401026 48 89 e7 "
      "mov\n"
      "           3           2:        4321 ifetch       8 byte(s) @ 0x0000000000401029 48 8d 34 "
      "lea\n"
      "           3           2:        4321                                             00\n"
      "           4           2:        4321 write        8 byte(s) @ 0x00007fff8f9d5f48 by PC "
      "0x1\n"
      "           5           2:        4321 read        16 byte(s) @ 0x00007f86ef03d090 by PC "
      "0x1\n"
      "           6           2:        4321 <thread 4321 exited>\n"
      "View tool results:\n"
      "              2 : total instructions\n";
  const std::vector<TraceRecord> want = {
      TraceRecord::Make(Gva(0x401026), AccessKind::kFetch, 2),
      TraceRecord::Make(Gva(0x401029), AccessKind::kFetch, 3),
      TraceRecord::Make(Gva(0x7fff8f9d5f48), AccessKind::kStore, 3),
      TraceRecord::Make(Gva(0x7f86ef03d090), AccessKind::kLoad, 4),
  };
  EXPECT_EQ(ReadPath(WriteFile("text", text)).value(), want);
  for (const char* bad :
       {"  6  2:  4321 jump  8 byte(s) @ 0x1", "  6  2:  4321 read 8 bytes @ 0x1",
        "  6  2:  4321 read 8 byte(s) @ 0x", "  6  2:  4321 read 8 byte(s) @ 0xffffffff81000000",
        "  6  2;  4321 read 8 byte(s) @ 0x1000", "I  04001090,3", "garbage"}) {
    EXPECT_THAT(ErrorOf(text + bad + "\n"), HasSubstr(":13: not a DynamoRIO record")) << bad;
  }
}

TEST(OpenTrace, ReadsPerfSamples) {
  const std::string text =
      "cpu/mem-loads,ldlat=30/P:     7f842b340b70\n"
      "cpu/mem-stores/P:     7ffd00001008\n"
      "cpu_core/mem-loads,ldlat=30/:u:           1000\n"
      "\n"
      "cpu/mem-loads-aux/:                0\n";
  const std::vector<TraceRecord> want = {
      TraceRecord::Make(Gva(0x7f842b340b70), AccessKind::kLoad, 0),
      TraceRecord::Make(Gva(0x7ffd00001008), AccessKind::kStore, 0),
      TraceRecord::Make(Gva(0x1000), AccessKind::kLoad, 0),
  };
  EXPECT_EQ(ReadPath(WriteFile("text", text), TraceFormat::kPerf).value(), want);
  for (const char* bad :
       {"page-faults:u:     7f842b340b70", "cpu/mem-loads/P:", "cpu/mem-loads/P: ", "7f842b340b70",
        "cpu/mem-loads/P:   7f842b340b70 _start", "cpu/mem-loads/P:   ffffffff81000000",
        "cpu/mem-loads/P:   xyz", "ls  4711 cpu/mem-loads/P"}) {
    EXPECT_THAT(ErrorOf(text + bad + "\n", TraceFormat::kPerf),
                AllOf(HasSubstr(":6: not a perf record"), HasSubstr(bad)));
  }
}

// One ChampSim instruction.
std::string Instruction(uint64_t pointer, std::array<uint64_t, 2> writes,
                        std::array<uint64_t, 4> reads) {
  const uint64_t words[8] = {pointer,  0x0101,   writes[0], writes[1],
                             reads[0], reads[1], reads[2],  reads[3]};
  return {reinterpret_cast<const char*>(words), sizeof(words)};
}

TEST(OpenTrace, ReadsChampsimInstructions) {
  const std::string bytes = Instruction(0x401000, {0x7000, 0x8000}, {0, 0x7000, 0x9000, 0}) +
                            Instruction(0x401005, {}, {});
  const std::vector<TraceRecord> want = {
      TraceRecord::Make(Gva(0x401000), AccessKind::kFetch, 2),
      TraceRecord::Make(Gva(0x7000), AccessKind::kModify, 3),
      TraceRecord::Make(Gva(0x9000), AccessKind::kLoad, 3),
      TraceRecord::Make(Gva(0x8000), AccessKind::kStore, 3),
      TraceRecord::Make(Gva(0x401005), AccessKind::kFetch, 2),
  };
  EXPECT_EQ(ReadPath(WriteFile("trace", bytes), TraceFormat::kChampsim).value(), want);
  EXPECT_THAT(ErrorOf(bytes.substr(0, 100), TraceFormat::kChampsim),
              AllOf(HasSubstr("truncated"), HasSubstr("byte 100")));
  EXPECT_THAT(ErrorOf(bytes + Instruction(~uint64_t{0}, {}, {}), TraceFormat::kChampsim),
              AllOf(HasSubstr("byte 128"), HasSubstr("not a ChampSim record")));
}

TEST(OpenTrace, TheBundledTracesAreWhatTheirDescriptionSays) {
  struct Known {
    const char* name;
    size_t pages;
  };
  for (const Known& known : {Known{"sqlite3_inserts", 582}, Known{"xz_compress", 778}}) {
    const auto records = ReadPath(std::string("examples/data/") + known.name + ".trc.zst");
    ASSERT_TRUE(records.ok()) << records.status();
    EXPECT_EQ(records->size(), 8000000u);
    std::vector<uint64_t> pages;
    for (TraceRecord record : *records) {
      const uint64_t page = record.gva().raw() >> kPageShift;
      if (pages.empty() || pages.back() != page) pages.push_back(page);
    }
    std::sort(pages.begin(), pages.end());
    pages.erase(std::unique(pages.begin(), pages.end()), pages.end());
    EXPECT_EQ(pages.size(), known.pages) << known.name;
  }
}

}  // namespace
}  // namespace tdp::tools
