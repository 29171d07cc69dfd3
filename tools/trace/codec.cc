// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/codec.h"

#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <cstdint>
#include <limits>

namespace tdp::tools {
namespace {

using std::literals::string_view_literals::operator""sv;

class ZstdCodec final : public Codec {
 public:
  ZstdCodec() : stream_(ZSTD_createDStream()) {}
  ~ZstdCodec() override { ZSTD_freeDStream(stream_); }
  ZstdCodec(const ZstdCodec&) = delete;
  ZstdCodec& operator=(const ZstdCodec&) = delete;

  const char* name() const override { return "zstd"; }

  Step Decode(absl::Span<const char> in, absl::Span<char> out, bool) override {
    ZSTD_inBuffer input = {in.data(), in.size(), 0};
    ZSTD_outBuffer output = {out.data(), out.size(), 0};
    const size_t result = ZSTD_decompressStream(stream_, &output, &input);
    if (ZSTD_isError(result)) return {.error = ZSTD_getErrorName(result)};
    return {input.pos, output.pos, result != 0};
  }

 private:
  ZSTD_DStream* const stream_;
};

class GzipCodec final : public Codec {
 public:
  // 15 bits of window; 16 more ask for gzip's own header.
  GzipCodec() { inflateInit2(&stream_, 15 + 16); }
  ~GzipCodec() override { inflateEnd(&stream_); }
  GzipCodec(const GzipCodec&) = delete;
  GzipCodec& operator=(const GzipCodec&) = delete;

  const char* name() const override { return "gzip"; }

  Step Decode(absl::Span<const char> in, absl::Span<char> out, bool) override {
    if (in.empty() && !inside_) return {.inside = false};
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
    stream_.avail_in = Bounded(in.size());
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = Bounded(out.size());
    const uInt had_in = stream_.avail_in;
    const uInt had_out = stream_.avail_out;
    const int result = inflate(&stream_, Z_NO_FLUSH);
    inside_ = result != Z_STREAM_END;
    const Step step = {had_in - stream_.avail_in, had_out - stream_.avail_out, inside_};
    if (result == Z_STREAM_END) {
      inflateReset(&stream_);  // another member may follow
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
      return {.error = stream_.msg != nullptr ? stream_.msg : "not gzip data"};
    }
    return step;
  }

 private:
  static uInt Bounded(size_t size) {
    constexpr size_t kMost = std::numeric_limits<uInt>::max();
    return static_cast<uInt>(size < kMost ? size : kMost);
  }

  z_stream stream_ = {};
  bool inside_ = true;
};

class XzCodec final : public Codec {
 public:
  XzCodec() {
    made_ = lzma_stream_decoder(&stream_, std::numeric_limits<uint64_t>::max(), LZMA_CONCATENATED);
  }
  ~XzCodec() override { lzma_end(&stream_); }
  XzCodec(const XzCodec&) = delete;
  XzCodec& operator=(const XzCodec&) = delete;

  const char* name() const override { return "xz"; }

  Step Decode(absl::Span<const char> in, absl::Span<char> out, bool last) override {
    if (made_ != LZMA_OK) return {.error = "no memory to unpack it"};
    stream_.next_in = reinterpret_cast<const uint8_t*>(in.data());
    stream_.avail_in = in.size();
    stream_.next_out = reinterpret_cast<uint8_t*>(out.data());
    stream_.avail_out = out.size();
    const lzma_ret result = lzma_code(&stream_, last ? LZMA_FINISH : LZMA_RUN);
    const Step step = {in.size() - stream_.avail_in, out.size() - stream_.avail_out,
                       result != LZMA_STREAM_END};
    switch (result) {
      case LZMA_OK:
      case LZMA_STREAM_END:
      case LZMA_BUF_ERROR:  // no progress: the caller sees it
        return step;
      case LZMA_MEM_ERROR:
        return {.error = "no memory to unpack it"};
      case LZMA_FORMAT_ERROR:
        return {.error = "not xz data"};
      case LZMA_OPTIONS_ERROR:
        return {.error = "unknown xz options"};
      default:
        return {.error = "corrupt data"};
    }
  }

 private:
  lzma_stream stream_ = LZMA_STREAM_INIT;
  lzma_ret made_;
};

struct Magic {
  std::string_view bytes;
  std::string_view name;
};

// Files that are mistaken for traces, or hold one in a form that is not read.
constexpr Magic kForeign[] = {
    {"BZh"sv, "bzip2 data: bzip2 -dc FILE | tdp … -"},
    {"PK\3\4"sv, "a zip archive: unzip -p FILE | tdp … -"},
    {"\xff\x06\0\0sNaPp"sv, "snappy data: unpack it first"},
    {"\x04\x22\x4d\x18"sv, "LZ4 data: lz4 -dc FILE | tdp … -"},
    {"PERFILE2"sv, "perf's own data: perf script -F event,addr | tdp … --format perf -"},
    {"\x89PNG"sv, "a PNG image"},
    {"\xff\xd8\xff"sv, "a JPEG image"},
    {"%PDF"sv, "a PDF document"},
    {"\x7f\x45LF"sv, "an ELF file"},
};

// Returns whether a zstd file begins with a frame for others, as pzstd writes them.
bool IsSkippable(std::string_view magic) {
  return magic.size() >= 4 && (static_cast<uint8_t>(magic[0]) & 0xf0) == 0x50 &&
         magic.substr(1).starts_with("\x2a\x4d\x18"sv);
}

}  // namespace

std::unique_ptr<Codec> MakeCodec(std::string_view magic) {
  if (magic.starts_with("\x28\xb5\x2f\xfd"sv)) return std::make_unique<ZstdCodec>();
  if (IsSkippable(magic)) return std::make_unique<ZstdCodec>();
  if (magic.starts_with("\x1f\x8b"sv)) return std::make_unique<GzipCodec>();
  if (magic.starts_with("\xfd\x37zXZ\0"sv)) return std::make_unique<XzCodec>();
  return nullptr;
}

std::string_view NameOfMagic(std::string_view magic) {
  for (const Magic& foreign : kForeign) {
    if (magic.starts_with(foreign.bytes)) return foreign.name;
  }
  return {};
}

}  // namespace tdp::tools
