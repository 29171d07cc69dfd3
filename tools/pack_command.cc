// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/pack_command.h"

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/options.h"
#include "tdp/tools/progress.h"
#include "tdp/tools/trace/binary_trace.h"
#include "tdp/tools/trace/open_trace.h"
#include "tdp/tools/trace/skip_text.h"
#include "tdp/tools/trace/trace_reader.h"
#include "tdp/tools/trace_options.h"

namespace tdp::tools {
namespace {

constexpr size_t kBatch = size_t{1} << 16;

struct PackOptions {
  TraceInput input;
  TraceHeader header;
  uint64_t limit = 0;
  bool help = false;
};

OptionParser MakeParser(PackOptions* options) {
  OptionParser parser;
  AddInputOptions(parser, &options->input);
  parser.AddString("program", "the command that was recorded, to be noted in the trace",
                   &options->header.program);
  parser.AddInteger("limit", "stop after N accesses; 0 for all", &options->limit, 0, ~uint64_t{0});
  parser.AddSwitch("salvage", "take a trace whose writer was killed, as far as it goes",
                   &options->input.tolerance.cut_short);
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

// Copies accesses, and returns their number.
absl::StatusOr<uint64_t> Copy(TraceReader& reader, BinaryTraceWriter& writer, uint64_t limit) {
  std::vector<TraceRecord> batch(kBatch);
  Progress progress;
  uint64_t done = 0;
  while (limit == 0 || done < limit) {
    TDP_ASSIGN_OR_RETURN(size_t got, reader.Read(absl::MakeSpan(batch)));
    if (got == 0) break;
    if (limit != 0 && got > limit - done) got = limit - done;
    TDP_RETURN_IF_ERROR(writer.Write(absl::MakeConstSpan(batch).first(got)));
    done += got;
    progress.Update(done, reader.source());
  }
  if (done == 0) {
    return absl::InvalidArgumentError(absl::StrCat(reader.source().name(), ": no access in it"));
  }
  TDP_RETURN_IF_ERROR(writer.Close());
  return done;
}

struct Packed {
  uint64_t accesses = 0;
  SkipCounts skipped;
};

absl::StatusOr<Packed> Pack(const PackOptions& options, const std::string& input,
                            const std::string& output) {
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<TraceReader> reader,
                       OpenTrace(input, ForLevels(options.input, 5)));
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<BinaryTraceWriter> writer,
                       BinaryTraceWriter::Create(output, options.header));
  TDP_ASSIGN_OR_RETURN(const uint64_t accesses, Copy(*reader, *writer, options.limit));
  return Packed{accesses, reader->skipped()};
}

}  // namespace

absl::StatusOr<int> RunPack(absl::Span<const std::string_view> arguments) {
  PackOptions options;
  const OptionParser parser = MakeParser(&options);
  TDP_ASSIGN_OR_RETURN(std::vector<std::string> files, parser.Parse(arguments));
  if (options.help) {
    absl::PrintF(
        "usage: tdp pack [OPTION...] INPUT OUTPUT\n\n"
        "Writes the trace INPUT (\"-\" for standard input) in the binary format, compressed with\n"
        "zstd, to OUTPUT (\"-\" for standard output).\n\n%s",
        parser.Help());
    return kExitOk;
  }
  if (files.size() != 2) {
    return absl::InvalidArgumentError("needs an INPUT and an OUTPUT; see tdp pack --help");
  }
  TDP_ASSIGN_OR_RETURN(const Packed packed, Pack(options, files[0], files[1]));
  // The trace itself may be on standard output.
  std::FILE* const out = files[1] == "-" ? stderr : stdout;
  absl::FPrintF(
      out, "%s: %d accesses%s\n", files[1], packed.accesses,
      packed.skipped.total() == 0 ? "" : absl::StrCat(", ", SkipText(packed.skipped), " left out"));
  return kExitOk;
}

}  // namespace tdp::tools
