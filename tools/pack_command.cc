// SPDX-License-Identifier: Apache-2.0

#include "tdp/tools/pack_command.h"

#include <unistd.h>

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
#include "tdp/tools/trace/trace_reader.h"
#include "tdp/tools/trace_options.h"

namespace tdp::tools {
namespace {

constexpr size_t kBatch = size_t{1} << 16;

struct PackOptions {
  TraceFormat format = TraceFormat::kAuto;
  uint64_t limit = 0;
  bool help = false;
};

OptionParser MakeParser(PackOptions* options) {
  OptionParser parser;
  AddFormatOption(parser, &options->format);
  parser.AddInteger("limit", "stop after N accesses; 0 for all", &options->limit, 0, ~uint64_t{0});
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

// The number of accesses copied.
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

absl::StatusOr<uint64_t> Pack(const PackOptions& options, const std::string& input,
                              const std::string& output) {
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<TraceReader> reader, OpenTrace(input, options.format));
  // Under another name until it is whole: an interrupted run leaves no trace that looks good, and
  // input and output may be one file.
  const std::string unfinished = output + ".part";
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<BinaryTraceWriter> writer,
                       BinaryTraceWriter::Create(unfinished));
  absl::StatusOr<uint64_t> copied = Copy(*reader, *writer, options.limit);
  if (copied.ok() && std::rename(unfinished.c_str(), output.c_str()) != 0) {
    copied = absl::UnavailableError(absl::StrCat("cannot create ", output));
  }
  if (!copied.ok()) unlink(unfinished.c_str());
  return copied;
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
        "zstd, to OUTPUT.\n\n%s",
        parser.Help());
    return kExitOk;
  }
  if (files.size() != 2) {
    return absl::InvalidArgumentError("needs an INPUT and an OUTPUT; see tdp pack --help");
  }
  TDP_ASSIGN_OR_RETURN(uint64_t copied, Pack(options, files[0], files[1]));
  absl::PrintF("%s: %d accesses\n", files[1], copied);
  return kExitOk;
}

}  // namespace tdp::tools
