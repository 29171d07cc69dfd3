// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/binary_trace.h"

#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "tdp/base/status_macros.h"
#include "tdp/tools/trace/record_pairs.h"

namespace tdp::tools {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the words of a trace are used as they stand in the file");

constexpr int kCompressionLevel = 9;
constexpr std::string_view kMagic = "TDPTRACE";
constexpr uint32_t kVersion = 2;
constexpr uint32_t kMostHeaderBytes = 1 << 20;

// Stands before the JSON text.
struct Preamble {
  char magic[8];
  uint32_t version;
  uint32_t text_bytes;
};
static_assert(sizeof(Preamble) == 16);

class BinaryTraceReader final : public TraceReader {
 public:
  BinaryTraceReader(std::unique_ptr<ByteSource> source, int address_bits, bool cut_short)
      : source_(std::move(source)), address_bits_(address_bits), cut_short_(cut_short) {}

  absl::StatusOr<size_t> Read(absl::Span<TraceRecord> records) override {
    const absl::Span<char> bytes(reinterpret_cast<char*>(records.data()),
                                 records.size() * sizeof(TraceRecord));
    size_t had = 0;
    if (!begun_) {
      TDP_ASSIGN_OR_RETURN(had, Begin(bytes));
    }
    TDP_ASSIGN_OR_RETURN(size_t got, source_->Read(bytes.subspan(had)));
    got += had;
    if (got % sizeof(TraceRecord) != 0 && !cut_short_) return Truncated(got);
    const size_t count = got / sizeof(TraceRecord);
    TDP_RETURN_IF_ERROR(CheckAll(records.first(count)));
    offset_ += got;
    return count;
  }

  const ByteSource& source() const override { return *source_; }

 private:
  // Goes past the header, if there is one: the first word is its magic or a record, and then stands
  // in `bytes`. How many bytes stand there.
  absl::StatusOr<size_t> Begin(absl::Span<char> bytes) {
    begun_ = true;
    Preamble preamble = {};
    TDP_ASSIGN_OR_RETURN(const size_t got,
                         source_->Read(absl::MakeSpan(preamble.magic, kMagic.size())));
    if (std::string_view(preamble.magic, got) != kMagic) {
      std::copy_n(preamble.magic, got, bytes.begin());
      return got;
    }
    constexpr size_t kRest = sizeof(Preamble) - kMagic.size();
    TDP_ASSIGN_OR_RETURN(
        const size_t rest,
        source_->Read(absl::MakeSpan(reinterpret_cast<char*>(&preamble) + kMagic.size(), kRest)));
    if (rest != kRest) return Truncated(got + rest);
    if (preamble.version != kVersion) {
      return absl::InvalidArgumentError(absl::StrCat(source_->name(), ": trace version ",
                                                     preamble.version,
                                                     ": this tdp reads versions 1 and 2"));
    }
    if (preamble.text_bytes > kMostHeaderBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(source_->name(), ": a header of ", preamble.text_bytes, " bytes"));
    }
    std::string text(preamble.text_bytes, '\0');
    TDP_ASSIGN_OR_RETURN(const size_t read, source_->Read(absl::MakeSpan(text)));
    offset_ = sizeof(Preamble) + read;
    if (read != text.size()) return Truncated(0);
    return size_t{0};
  }

  // Returns whether no bit of any upper half says that the record might be none that a user can
  // make. The last 4 GiB of the user's half need a closer look, since an access there may reach
  // beyond it, and so does the upper half of what five levels of tables reach.
  bool LookFineFromAbove(absl::Span<const TraceRecord> records) const {
    // The bits that an address may have here, and the one above them, which must have room for what
    // is carried below the size.
    const int bits = std::min(address_bits_, TraceRecord::kSizeShift - 1) - 32;
    const uint32_t address = (uint32_t{1} << bits) - 1;
    constexpr int kSizeShift = TraceRecord::kSizeShift - 32;
    // Above 2^12 bytes a size carries into the bit above its field, and an address of ones into the
    // bit above the address.
    const uint32_t fields = address | uint32_t{15} << kSizeShift;
    const uint32_t to_overflow = 1 | uint32_t{3} << kSizeShift;
    const uint32_t overflows = uint32_t{1} << bits | uint32_t{16} << kSizeShift;
    UpperHalves all = {};
    UpperHalves sums = {};
    ForEachUpperHalves(records, [&](UpperHalves halves) {
      all |= halves;
      sums |= (halves & fields) + to_overflow;
    });
    const uint32_t seen = all[0] | all[1] | all[2] | all[3];
    const uint32_t sum = sums[0] | sums[1] | sums[2] | sums[3];
    constexpr uint32_t kAddress = (uint32_t{1} << kSizeShift) - 1;
    return (seen & (kAddress & ~address)) == 0 && seen >> 30 == 0 && (sum & overflows) == 0;
  }

  // Returns the same by a look at whole records. The last page of the user's half alone needs a
  // closer look.
  bool LookFine(absl::Span<const TraceRecord> records) const {
    const uint64_t user = (uint64_t{1} << address_bits_) - 1;
    constexpr uint64_t kAddress = (uint64_t{1} << 56) - 1;
    // Above 2^12 bytes a size carries into the bit above its field, and an address on the last page
    // into the bit above the user's.
    constexpr uint64_t kSizeField = uint64_t{15} << 56;
    constexpr uint64_t kToOverflow = uint64_t{3} << 56;
    RecordPair all = {};
    RecordPair sizes = {};
    RecordPair ends = {};
    ForEachPair(records, [&](RecordPair pair) {
      all |= pair;
      sizes |= (pair & kSizeField) + kToOverflow;
      ends |= (pair & user) + uint64_t{kPageSize};
    });
    const uint64_t seen = all[0] | all[1];
    return (seen & (kAddress & ~user)) == 0 && seen >> 62 == 0 &&
           (sizes[0] | sizes[1]) >> 60 == 0 && (ends[0] | ends[1]) >> address_bits_ == 0;
  }

  absl::Status CheckAll(absl::Span<const TraceRecord> records) const {
    if (LookFineFromAbove(records) || LookFine(records)) return absl::OkStatus();
    bool valid = true;
    for (TraceRecord record : records) valid &= IsUserRecord(record, address_bits_);
    if (valid) return absl::OkStatus();
    size_t bad = 0;
    while (IsUserRecord(records[bad], address_bits_)) ++bad;
    if (IsUserRecord(records[bad], kMostUserAddressBits)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: byte %d of the trace: address 0x%x has more than %d bits: --guest-levels 5",
          source_->name(), offset_ + bad * sizeof(TraceRecord), records[bad].gva().raw(),
          address_bits_));
    }
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: byte %d of the trace: unknown record 0x%016x (kind %d, size 2^%d, address 0x%x)",
        source_->name(), offset_ + bad * sizeof(TraceRecord), records[bad].raw(),
        static_cast<int>(records[bad].kind()), records[bad].log2_size(), records[bad].gva().raw()));
  }

  absl::Status Truncated(size_t got) const {
    return absl::DataLossError(absl::StrCat(source_->name(), ": truncated: the trace ends at byte ",
                                            offset_ + got, " inside a record"));
  }

  const std::unique_ptr<ByteSource> source_;
  const int address_bits_;
  const bool cut_short_;
  bool begun_ = false;
  uint64_t offset_ = 0;
};

// Returns the header's bytes, whole words of them.
std::string HeaderBytes(const TraceHeader& header) {
  nlohmann::ordered_json json = {{"program", header.program}};
  // A command line may be in any encoding.
  std::string text = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text.resize((text.size() + sizeof(TraceRecord) - 1) / sizeof(TraceRecord) * sizeof(TraceRecord),
              ' ');
  Preamble preamble = {};
  kMagic.copy(preamble.magic, sizeof(preamble.magic));
  preamble.version = kVersion;
  preamble.text_bytes = static_cast<uint32_t>(text.size());
  return std::string(reinterpret_cast<const char*>(&preamble), sizeof(preamble)) + text;
}

}  // namespace

bool HasTraceMagic(std::string_view head) { return head.starts_with(kMagic); }

bool LooksLikeWords(std::string_view head) {
  const size_t count = head.size() / sizeof(TraceRecord);
  for (size_t i = 0; i < count; ++i) {
    uint64_t word;
    std::memcpy(&word, &head[i * sizeof(word)], sizeof(word));
    const TraceRecord record(word);
    if (!IsUserRecord(record) || record.gva().raw() < kPageSize) return false;
  }
  return count != 0;
}

std::unique_ptr<TraceReader> MakeBinaryTraceReader(std::unique_ptr<ByteSource> source,
                                                   int address_bits, bool cut_short) {
  return std::make_unique<BinaryTraceReader>(std::move(source), address_bits, cut_short);
}

absl::StatusOr<std::unique_ptr<BinaryTraceWriter>> BinaryTraceWriter::Create(
    const std::string& path, const TraceHeader& header) {
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<OutputFile> file, OutputFile::Create(path));
  std::unique_ptr<BinaryTraceWriter> writer(new BinaryTraceWriter(std::move(file)));
  TDP_RETURN_IF_ERROR(writer->Compress(HeaderBytes(header), /*last=*/false));
  return writer;
}

BinaryTraceWriter::BinaryTraceWriter(std::unique_ptr<OutputFile> file)
    : file_(std::move(file)), context_(ZSTD_createCCtx()), buffer_(ZSTD_CStreamOutSize()) {
  ZSTD_CCtx_setParameter(context_, ZSTD_c_compressionLevel, kCompressionLevel);
  ZSTD_CCtx_setParameter(context_, ZSTD_c_checksumFlag, 1);
}

BinaryTraceWriter::~BinaryTraceWriter() { ZSTD_freeCCtx(context_); }

absl::Status BinaryTraceWriter::Write(absl::Span<const TraceRecord> records) {
  return Compress(
      {reinterpret_cast<const char*>(records.data()), records.size() * sizeof(TraceRecord)},
      /*last=*/false);
}

absl::Status BinaryTraceWriter::Close() {
  TDP_RETURN_IF_ERROR(Compress({}, /*last=*/true));
  return file_->Commit();
}

absl::Status BinaryTraceWriter::Compress(absl::Span<const char> bytes, bool last) {
  ZSTD_inBuffer input = {bytes.data(), bytes.size(), 0};
  size_t left = 0;
  do {
    ZSTD_outBuffer output = {buffer_.data(), buffer_.size(), 0};
    left = ZSTD_compressStream2(context_, &output, &input, last ? ZSTD_e_end : ZSTD_e_continue);
    if (ZSTD_isError(left)) {
      return absl::InternalError(absl::StrCat(file_->name(), ": zstd: ", ZSTD_getErrorName(left)));
    }
    TDP_RETURN_IF_ERROR(file_->Write({buffer_.data(), output.pos}));
  } while (input.pos < input.size || (last && left != 0));
  return absl::OkStatus();
}

}  // namespace tdp::tools
