// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/open_trace.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
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
                                                  TraceFormat format = TraceFormat::kAuto,
                                                  TraceTolerance tolerance = {}) {
  absl::StatusOr<std::unique_ptr<TraceReader>> reader = OpenTrace(path, {format, tolerance});
  if (!reader.ok()) return reader.status();
  return ReadAll(**reader);
}

// Returns the message of the error that reading `bytes` ends with.
std::string ErrorOf(std::string_view bytes, TraceFormat format = TraceFormat::kAuto,
                    TraceTolerance tolerance = {}) {
  const auto records = ReadPath(WriteFile("trace", bytes), format, tolerance);
  return records.ok() ? "no error" : std::string(records.status().message());
}

std::string StrictErrorOf(std::string_view bytes, TraceFormat format = TraceFormat::kAuto) {
  return ErrorOf(bytes, format, {.strict = true});
}

struct Tolerated {
  std::vector<TraceRecord> records;
  SkipCounts skipped;
};

// Returns what is read of `bytes`, and what is left out.
Tolerated ReadTolerantly(std::string_view bytes, TraceFormat format = TraceFormat::kAuto) {
  auto reader = OpenTrace(WriteFile("trace", bytes), {.format = format});
  EXPECT_TRUE(reader.ok()) << reader.status();
  if (!reader.ok()) return {};
  auto records = ReadAll(**reader);
  EXPECT_TRUE(records.ok()) << records.status();
  return {records.ok() ? *records : std::vector<TraceRecord>(), (*reader)->skipped()};
}

TEST(OpenTrace, ReadsAPlainBinaryTrace) {
  const std::vector<TraceRecord> records = RandomRecords(5000);
  EXPECT_EQ(ReadPath(WriteFile("trace", Words(records))).value(), records);
}

TEST(OpenTrace, ReadsACompressedBinaryTraceInBatchesOfAnySize) {
  const std::vector<TraceRecord> records = RandomRecords(5000);
  const std::string path = WriteFile("trace", Zstd(Words(records)));
  for (size_t batch : {1, 2, 3, 511, 4999, 5000, 5001, 100000}) {
    auto reader = OpenTrace(path, {});
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ(ReadAll(**reader, batch).value(), records) << batch;
  }
}

TEST(OpenTrace, AddressesOf57BitsAreReadWhereTheTablesReachThem) {
  const std::string text = " L 7fffffffffff,1\n L 800000000000,8\n S ffffffffffffff,1\n";
  const std::string lackey = WriteFile("lackey", text);
  EXPECT_EQ(ReadPath(lackey, TraceFormat::kAuto, {.address_bits = 56})->size(), 3u);
  const Tolerated four = ReadTolerantly(text);
  EXPECT_EQ(four.records.size(), 1u);
  EXPECT_EQ(four.skipped.bad_address, 2u);
  EXPECT_THAT(StrictErrorOf(text), HasSubstr(":2: no user address of 47 bits"));
  const std::string words =
      Words({TraceRecord::Make(Gva(0x1000), AccessKind::kLoad, 0),
             TraceRecord::Make(Gva(0xff'ffff'ffff'fff8), AccessKind::kStore, 3)});
  EXPECT_EQ(ReadPath(WriteFile("words", words), TraceFormat::kBinary, {.address_bits = 56})->size(),
            2u);
  EXPECT_THAT(ErrorOf(words, TraceFormat::kBinary),
              HasSubstr("byte 8 of the trace: address 0xfffffffffffff8 has more than 47 bits: "
                        "--guest-levels 5"));
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
  auto writer = BinaryTraceWriter::Create(path, {.program = "ls -l"});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const auto span = absl::MakeConstSpan(records);
  ASSERT_TRUE((*writer)->Write(span.first(1)).ok());
  ASSERT_TRUE((*writer)->Write(span.subspan(1)).ok());
  ASSERT_TRUE((*writer)->Close().ok());
  EXPECT_EQ(ReadPath(path).value(), records);
}

TEST(OpenTrace, AWriterThatIsNotClosedLeavesWhatWasThere) {
  const std::string path = WriteFile("trace", "from before");
  {
    auto writer = BinaryTraceWriter::Create(path, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->Write(RandomRecords(300000)).ok());
  }
  EXPECT_EQ(ReadWholeFile(path), "from before");
}

TEST(OpenTrace, AHeaderOfAnotherVersionOrCutShortIsRefused) {
  const std::string path = WriteFile("trace", "");
  auto writer = BinaryTraceWriter::Create(path, {.program = "ls"});
  ASSERT_TRUE(writer.ok() && (*writer)->Write(RandomRecords(10)).ok() && (*writer)->Close().ok());
  auto source = OpenByteSource(path);
  std::string bytes(1000, '\0');
  bytes.resize((*source)->Read(absl::MakeSpan(bytes)).value());
  EXPECT_EQ(ReadPath(WriteFile("plain", bytes)).value(), RandomRecords(10));
  for (size_t length = 8; length < bytes.size() - 80; ++length) {
    EXPECT_FALSE(ReadPath(WriteFile("cut", bytes.substr(0, length))).ok() && length != 32)
        << length;
  }
  bytes[8] = 3;
  EXPECT_THAT(ErrorOf(bytes), HasSubstr("trace version 3: this tdp reads versions 1 and 2"));
}

TEST(OpenTrace, ReadsGzipAndXzInSeveralMembers) {
  const std::vector<TraceRecord> records = RandomRecords(5000);
  const std::string bytes = Words(records);
  for (const char* tool : {"gzip", "xz"}) {
    const std::string first = WriteFile("first", bytes.substr(0, 333));
    const std::string second = WriteFile("second", bytes.substr(333));
    const std::string whole = WriteFile(tool, "");
    ASSERT_EQ(std::system(absl::StrCat("(", tool, " -c '", first, "'; ", tool, " -c '", second,
                                       "') > '", whole, "'")
                              .c_str()),
              0);
    EXPECT_EQ(ReadPath(whole).value(), records) << tool;
    const std::string packed = ReadWholeFile(whole);
    EXPECT_THAT(ErrorOf(packed.substr(0, packed.size() - 9)),
                AllOf(HasSubstr("truncated"), HasSubstr(tool)));
    std::string corrupt = packed;
    for (size_t i = 400; i < 440; ++i) corrupt[i] = static_cast<char>(~corrupt[i]);
    EXPECT_THAT(ErrorOf(corrupt), HasSubstr(absl::StrCat("bad ", tool, " data"))) << tool;
  }
}

TEST(OpenTrace, WhatIsNoTraceIsNamedByItsMagic) {
  EXPECT_THAT(ErrorOf("BZh91AY&SY"), HasSubstr("this is bzip2 data"));
  EXPECT_THAT(ErrorOf("PERFILE2\1\2"), HasSubstr("perf script"));
  EXPECT_THAT(ErrorOf(std::string("\x89PNG\r\n\x1a\n")), HasSubstr("a PNG image"));
  EXPECT_THAT(ErrorOf(std::string("\x7f") + "ELF\2\1\1"), HasSubstr("an ELF file"));
}

TEST(OpenTrace, BytesThatFitNoFormatAreNotTakenForWords) {
  EXPECT_THAT(ErrorOf(std::string(4096, '\0')), HasSubstr("--format"));
  // This is like /proc/self/pagemap: frame numbers with flags above them, and holes.
  std::string pagemap;
  for (uint64_t i = 0; i < 100; ++i) {
    const uint64_t word = i % 3 == 0 ? 0 : uint64_t{0x81} << 56 | (0x1000 + i);
    pagemap.append(reinterpret_cast<const char*>(&word), sizeof(word));
  }
  EXPECT_THAT(ErrorOf(pagemap), HasSubstr("not a trace"));
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

TEST(OpenTrace, WhatIsCutShortIsSalvagedUpToItsLastWholeRecord) {
  const std::vector<TraceRecord> records = RandomRecords(200'000);
  const std::string plain = Words(records);
  const std::string packed = Zstd(plain);
  const TraceInput salvage = {.tolerance = {.address_bits = 56, .cut_short = true}};
  const auto check = [&](const std::string& bytes, size_t least) {
    const auto reader = OpenTrace(WriteFile("trace", bytes), salvage);
    ASSERT_TRUE(reader.ok()) << reader.status();
    const auto got = ReadAll(**reader, 777);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_GE(got->size(), least);
    ASSERT_LE(got->size(), records.size());
    EXPECT_TRUE(std::equal(got->begin(), got->end(), records.begin()));
  };
  // zstd's blocks are of 128 KiB, of which the last one may be lost.
  for (const size_t length : {packed.size(), packed.size() - 1, packed.size() / 2}) {
    const size_t records_before = records.size() * length / packed.size();
    check(packed.substr(0, length), records_before - std::min<size_t>(records_before, 40'000));
  }
  for (const size_t length : {plain.size(), plain.size() - 3, size_t{9}}) {
    check(plain.substr(0, length), length / sizeof(TraceRecord));
  }
  // Damaged data are no less damaged for that, and text may be cut inside an address.
  std::string damaged = packed;
  for (size_t i = 2000; i < 2100; ++i) damaged[i] = static_cast<char>(~damaged[i]);
  const auto reader = OpenTrace(WriteFile("damaged", damaged), salvage);
  ASSERT_TRUE(!reader.ok() || !ReadAll(**reader).ok());
  EXPECT_FALSE(OpenTrace(WriteFile("text", " S 1000,8\n S 10"), salvage).ok());
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
  EXPECT_THAT(
      ErrorOf(Words(records), TraceFormat::kBinary),
      AllOf(HasSubstr("byte 20000"), HasSubstr("unknown record"), HasSubstr("0x9000000000001234")));
}

TEST(OpenTrace, AnAddressBeyondTheUsersHalfOrAHugeSizeIsRefused) {
  EXPECT_THAT(ErrorOf(Words({TraceRecord::Make(Gva(uint64_t{1} << 47), AccessKind::kLoad, 3)}),
                      TraceFormat::kBinary),
              HasSubstr("more than 47 bits"));
  EXPECT_THAT(
      ErrorOf(Words({TraceRecord::Make(Gva(0x1000), AccessKind::kLoad, 13)}), TraceFormat::kBinary),
      HasSubstr("unknown record"));
  // The last byte of this access is beyond the user's half.
  EXPECT_THAT(
      ErrorOf(Words({TraceRecord::Make(Gva((uint64_t{1} << 47) - 4), AccessKind::kLoad, 3)}),
              TraceFormat::kBinary),
      HasSubstr("more than 47 bits"));
}

TEST(OpenTrace, AnEmptyFileIsAnError) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("empty"));
  EXPECT_THAT(ErrorOf(Zstd("")), HasSubstr("empty"));
}

TEST(OpenTrace, AFileThatIsNotThereIsNotFound) {
  const auto reader = OpenTrace("/no/such/trace", {});
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(reader.status().message()), HasSubstr("/no/such/trace"));
}

TEST(OpenTrace, ADirectoryIsAnError) { EXPECT_FALSE(OpenTrace(testing::TempDir(), {}).ok()); }

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
  // pzstd begins with a frame that has nothing for who unpacks.
  const std::string skipped("\x50\x2a\x4d\x18\x04\0\0\0size", 12);
  EXPECT_EQ(ReadPath(WriteFile("pzstd", skipped + Zstd(text))).value(), want);
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
        " X 04001090,3", " L ,3", " L 04001090,3 ", "hello", " L -4,8"}) {
    EXPECT_THAT(StrictErrorOf(good + good + bad + "\n" + good),
                AllOf(HasSubstr(":3: not a Lackey record"), HasSubstr(bad)));
  }
}

TEST(OpenTrace, AnAccessThatNoRecordHoldsIsRefusedWithItsReason) {
  const std::string good = "I  04001090,3\n";
  EXPECT_THAT(StrictErrorOf(good + " L 04001090,0\n"), HasSubstr(":2: an access to no byte"));
  EXPECT_THAT(StrictErrorOf(good + " L 04001090,4097\n"), HasSubstr("more than 4096"));
  EXPECT_THAT(StrictErrorOf(good + " L ffffffff81000000,8\n"),
              AllOf(HasSubstr(":2: a kernel address"), HasSubstr("--skip-kernel")));
  EXPECT_THAT(StrictErrorOf(good + " L 1111222233334444,8\n"),
              HasSubstr("no user address of 47 bits"));
  EXPECT_THAT(StrictErrorOf(good + " L 11112222333344445,8\n"),
              HasSubstr("no user address of 47 bits"));
  EXPECT_EQ(ErrorOf(good + " L ffffffff81000000,8\n", TraceFormat::kLackey,
                    {.strict = true, .skip_kernel = true}),
            "no error");
}

TEST(OpenTrace, ByDefaultWhatIsNoAccessIsLeftOutAndCounted) {
  const std::string good = "I  04001090,3\n";
  const Tolerated read =
      ReadTolerantly(good + "the program said hello\n" + good + " L ffffffff81000000,8\n" +
                     " L 1111222233334444,8\n L 04001090,0\n L 04001090,4097\n" + good);
  EXPECT_EQ(read.records.size(), 3u);
  EXPECT_EQ(read.skipped.foreign, 1u);
  EXPECT_EQ(read.skipped.kernel, 1u);
  EXPECT_EQ(read.skipped.bad_address, 1u);
  EXPECT_EQ(read.skipped.bad_size, 2u);
}

TEST(OpenTrace, AFileOfAnotherFormatIsRefusedByDefaultToo) {
  std::string prose;
  for (int i = 0; i < 5000; ++i) prose += "once upon a time\n";
  EXPECT_THAT(ErrorOf(prose), HasSubstr(":1: not a Lackey record"));
  EXPECT_THAT(ErrorOf("I  04001090,3\n" + prose), HasSubstr(":2: not a Lackey record"));
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
  for (const char* bad : {"  6  2:  4321 read 8 bytes @ 0x1", "  6  2:  4321 read 8 byte(s) @ 0x",
                          "  6  2;  4321 read 8 byte(s) @ 0x1000", "I  04001090,3", "garbage"}) {
    EXPECT_THAT(StrictErrorOf(text + bad + "\n"), HasSubstr(":13: not a DynamoRIO record")) << bad;
  }
  EXPECT_THAT(StrictErrorOf(text + "  6  2:  4321 read 8 byte(s) @ 0xffffffff81000000\n"),
              HasSubstr(":13: a kernel address"));
}

TEST(OpenTrace, ReadsDynamorioTextWithEveryFormOfItsThreadColumn) {
  for (const char* thread : {"4321", "T4321", "W0.T4321", "W12.T4321"}) {
    const std::string text = absl::StrCat(
        "Output format:\n   1   0: ", thread, " <marker: version 8>\n   2   1: ", thread,
        " ifetch       3 byte(s) @ 0x0000000000401026 48 89 e7 mov\n   3   1: ", thread,
        " non-fetched  3 byte(s) @ 0x0000000000401026 48 89 e7 mov\n   4   1: ", thread,
        " pref-r-L1   64 byte(s) @ 0x0000000000402000 by PC 0x401026\n   5   1: ", thread,
        " dflush      64 byte(s) @ 0x0000000000402000 by PC 0x401026\n");
    const Tolerated read = ReadTolerantly(text);
    ASSERT_EQ(read.records.size(), 1u) << thread;
    EXPECT_EQ(read.records[0].gva(), Gva(0x401026));
    EXPECT_EQ(read.skipped.no_access, 3u) << thread;
    EXPECT_EQ(read.skipped.foreign, 0u) << thread;
    EXPECT_EQ(StrictErrorOf(text), "no error");
  }
  // The oldest texts have no column of instructions.
  EXPECT_EQ(ReadTolerantly("Output format:\n<record#>: T<tid> <record details>\n"
                           "   7: T17 read         8 byte(s) @ 0x00007f8881e37c70 by PC 0x402680\n")
                .records.size(),
            1u);
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
        "cpu/mem-loads/P:   xyz", "ls  4711 cpu/mem-loads/P"}) {
    EXPECT_THAT(StrictErrorOf(text + bad + "\n", TraceFormat::kPerf),
                AllOf(HasSubstr(":6: not a perf record"), HasSubstr(bad)));
  }
}

TraceRecord Load(uint64_t address, int log2) {
  return TraceRecord::Make(Gva(address), AccessKind::kLoad, log2);
}
TraceRecord Store(uint64_t address, int log2) {
  return TraceRecord::Make(Gva(address), AccessKind::kStore, log2);
}
TraceRecord Fetch(uint64_t address, int log2) {
  return TraceRecord::Make(Gva(address), AccessKind::kFetch, log2);
}

// Checks what every compression of `text` is read as, by content and by name.
void ExpectReadAs(const std::string& text, TraceFormat format,
                  const std::vector<TraceRecord>& want) {
  EXPECT_EQ(ReadTolerantly(text).records, want) << text;
  EXPECT_EQ(ReadTolerantly(text, format).records, want) << text;
  EXPECT_EQ(ReadTolerantly(Zstd(text)).records, want) << "zstd";
}

TEST(OpenTrace, ReadsPinatrace) {
  ExpectReadAs(
      "0x7f0000401000: R 0x7ffd1000\n0x7f0000401004: W 0x7ffd1008\n0x401009: R 0x601000 8 0x0\n"
      "#eof\n",
      TraceFormat::kPinatrace,
      {Fetch(0x7f0000401000, 0), Load(0x7ffd1000, 0), Fetch(0x7f0000401004, 0),
       Store(0x7ffd1008, 0), Fetch(0x401009, 0), Load(0x601000, 3)});
  EXPECT_THAT(StrictErrorOf("0x401000: R 0x1000\n0x401000: X 0x1000\n"),
              HasSubstr(":2: not a pinatrace record"));
}

TEST(OpenTrace, ReadsDinero) {
  ExpectReadAs("2 408ed4\n0 10019d94\n1 10019d88\n3 0\n4 0\n2 408ed8\n", TraceFormat::kDinero,
               {Fetch(0x408ed4, 2), Load(0x10019d94, 2), Store(0x10019d88, 2), Fetch(0x408ed8, 2)});
  ExpectReadAs("r 1fc0 8\nw 1fd0 10\ni 400abc 4\n", TraceFormat::kDinero,
               {Load(0x1fc0, 3), Store(0x1fd0, 4), Fetch(0x400abc, 2)});
  EXPECT_THAT(StrictErrorOf("0 1fc0\n7 1fc0\n"), HasSubstr(":2: not a din record"));
  EXPECT_EQ(ReadTolerantly("0 1fc0\n3 1f\n4 2f\n").skipped.no_access, 2u);
}

TEST(OpenTrace, ReadsBothTracesOfRamulator) {
  ExpectReadAs("0x12345680 R\n0x4cbd56c0 W\n0x35d46f00 R\n", TraceFormat::kRamulator,
               {Load(0x12345680, 6), Store(0x4cbd56c0, 6), Load(0x35d46f00, 6)});
  ExpectReadAs("3 20734016\n1 20846400\n6 20734208\n8 20841280 20841280\n", TraceFormat::kRamulator,
               {Load(20734016, 6), Load(20846400, 6), Load(20734208, 6), Load(20841280, 6),
                Store(20841280, 6)});
}

TEST(OpenTrace, ReadsQemusExeclog) {
  ExpectReadAs(
      "0, 0x401000, 0x55, \"pushq %rbp\", store, 0x7ffd1000\n"
      "0, 0x401001, 0x8b, \"movq 8(%rax, %rbx), %rcx\", load, 0x00601000, RAM\n"
      "1, 0x401005, 0x90, \"nop\"\n"
      "0, 0x401006, 0xa4, \"movsb\", load, 0x602000, store, 0x603000\n",
      TraceFormat::kExeclog,
      {Fetch(0x401000, 0), Store(0x7ffd1000, 0), Fetch(0x401001, 0), Load(0x601000, 0),
       Fetch(0x401005, 0), Fetch(0x401006, 0), Load(0x602000, 0), Store(0x603000, 0)});
  EXPECT_EQ(ReadTolerantly("0, 0xffffffff81000000, 0x90, \"nop\"\n0, 0x401000, 0x90, \"nop\"\n")
                .skipped.kernel,
            1u);
}

TEST(OpenTrace, ReadsDefaultLayoutsOfPerfScriptAndAmdsSamples) {
  ExpectReadAs(
      "   cc1  3256 [001] 12345.678901:      30 cpu/mem-loads,ldlat=30/P:     7ffc12345678 "
      "5080184 |OP LOAD|LVL L1 hit|SNP None|TLB L1 or L2 hit|LCK No|BLK  N/A         7f0012345678 "
      "std::sort+0x1 (/usr/lib/libc.so)\n"
      "   cc1  3256 12345.678902:      30 cpu/mem-stores/P:     601040      401234 main (/bin/a)\n"
      "   a b  3256 [001] 12345.678903: 1 ibs_op//:  602000 |OP STORE|LVL L1 hit|  401238 main\n"
      "   cc1  3256 [001] 12345.678904: 1 ibs_op//:  0 |OP N/A|LVL N/A|  401238 main\n",
      TraceFormat::kPerf, {Load(0x7ffc12345678, 0), Store(0x601040, 0), Store(0x602000, 0)});
  ExpectReadAs(
      "cpu/mem-loads,ldlat=30/P:     7ffc12345678\nmem_inst_retired.all_stores:u:  601000\n",
      TraceFormat::kPerf, {Load(0x7ffc12345678, 0), Store(0x601000, 0)});
}

TEST(OpenTrace, ReadsCloudsuitesRecords) {
  std::string bytes;
  for (uint64_t i = 0; i < 20; ++i) {
    std::array<uint64_t, 12> words{};
    words[0] = 0x400000 + 4 * i;
    words[3] = 0x7000000 + i * 8;  // written
    words[7] = 0x8000000 + i * 8;  // read
    bytes.append(reinterpret_cast<const char*>(words.data()), sizeof(words));
  }
  const Tolerated read = ReadTolerantly(bytes);
  ASSERT_EQ(read.records.size(), 60u);
  EXPECT_EQ(read.records[0], Fetch(0x400000, 2));
  EXPECT_EQ(read.records[1], Load(0x8000000, 3));
  EXPECT_EQ(read.records[2], Store(0x7000000, 3));
  EXPECT_EQ(ReadTolerantly(bytes, TraceFormat::kCloudsuite).records, read.records);
  EXPECT_THAT(ErrorOf(bytes.substr(0, 100), TraceFormat::kCloudsuite), HasSubstr("truncated"));
}

// Returns one ChampSim instruction.
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
  EXPECT_THAT(StrictErrorOf(bytes + Instruction(~uint64_t{0}, {}, {}), TraceFormat::kChampsim),
              AllOf(HasSubstr("byte 128"), HasSubstr("not a ChampSim record")));
  // They have no magic number, but their form is known.
  EXPECT_EQ(ReadTolerantly(bytes).records, want);
  EXPECT_EQ(ReadTolerantly(bytes + Instruction(~uint64_t{0}, {}, {})).skipped.kernel, 1u);
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
