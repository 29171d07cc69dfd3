// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// An owned file descriptor.

#ifndef TDP_BACKENDS_KVM_FILE_DESCRIPTOR_H_
#define TDP_BACKENDS_KVM_FILE_DESCRIPTOR_H_

#include <unistd.h>

#include <utility>

namespace tdp {

class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }

  bool is_open() const { return fd_ >= 0; }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

}  // namespace tdp

#endif  // TDP_BACKENDS_KVM_FILE_DESCRIPTOR_H_
