// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

constexpr mode_t kMode = 0666;

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Returns `path` with `ending` behind it, its last name cut where both would be too long for one.
std::string WithEnding(const std::string& path, const std::string& ending) {
  const size_t name = path.rfind('/') + 1;  // npos + 1 is 0
  return path.substr(0, std::min(path.size(), name + NAME_MAX - ending.size())) + ending;
}

// Linux follows as many.
constexpr int kMostLinks = 40;

// Returns where `path` leads to through symbolic links, whether there is a file or not; nothing
// where they lead in circles.
std::optional<std::string> Resolved(std::string path) {
  for (int links = 0; links < kMostLinks; ++links) {
    std::array<char, PATH_MAX> target{};
    const ssize_t length = readlink(path.c_str(), target.data(), target.size());
    if (length < 0) return path;
    const std::string_view next(target.data(), static_cast<size_t>(length));
    path = next.starts_with('/') ? std::string(next) : absl::StrCat(FolderOf(path), "/", next);
  }
  errno = ELOOP;
  return std::nullopt;
}

}  // namespace

absl::StatusOr<std::unique_ptr<OutputFile>> OutputFile::Create(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("the output file has no name");
  if (path == "-") {
    return std::unique_ptr<OutputFile>(new OutputFile("standard output", dup(STDOUT_FILENO)));
  }
  std::unique_ptr<OutputFile> file(new OutputFile(path, -1));
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    file->fd_ = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (file->fd_ < 0) return file->Error("cannot open ");
    return file;
  }
  const std::optional<std::string> target = Resolved(path);
  if (!target.has_value()) return file->Error("cannot create ");
  TDP_RETURN_IF_ERROR(file->OpenAside(*target));
  return file;
}

// Without a name where the file system can do that, so that not even a killed run leaves a trace.
absl::Status OutputFile::OpenAside(const std::string& path) {
  target_ = path;
  // A file without a name would not tell that its name cannot be had.
  struct stat info = {};
  if (lstat(path.c_str(), &info) != 0 && errno != ENOENT) return Error("cannot create ");
  fd_ = open(FolderOf(path).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, kMode);
  if (fd_ >= 0) return absl::OkStatus();
  aside_ = WithEnding(path, ".part");
  fd_ = open(aside_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kMode);
  if (fd_ >= 0) return absl::OkStatus();
  aside_.clear();
  return Error("cannot create ");
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
  if (!aside_.empty()) unlink(aside_.c_str());
}

absl::Status OutputFile::Write(absl::Span<const char> bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = write(fd_, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return Error("cannot write ");
    bytes.remove_prefix(static_cast<size_t>(wrote));
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Commit() {
  if (!target_.empty()) TDP_RETURN_IF_ERROR(PutInPlace());
  if (close(std::exchange(fd_, -1)) != 0) return Error("cannot write ");
  return absl::OkStatus();
}

absl::Status OutputFile::PutInPlace() {
  if (aside_.empty()) {
    // A file without a name gets one by way of its descriptor; no name can be given twice, so it
    // comes to its place by a rename.
    const std::string name = WithEnding(target_, absl::StrCat(".", getpid(), ".part"));
    const std::string descriptor = absl::StrCat("/proc/self/fd/", fd_);
    if (linkat(AT_FDCWD, descriptor.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      return Error("cannot create ");
    }
    aside_ = name;
  }
  struct stat info = {};
  if (stat(target_.c_str(), &info) == 0) fchmod(fd_, info.st_mode & 07777);
  if (std::rename(aside_.c_str(), target_.c_str()) != 0) return Error("cannot create ");
  aside_.clear();
  return absl::OkStatus();
}

absl::Status OutputFile::Error(const char* what) const {
  return absl::UnavailableError(absl::StrCat(what, name_, ": ", std::strerror(errno)));
}

}  // namespace tdp::tools
