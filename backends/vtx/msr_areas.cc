// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/msr_areas.h"

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "tdp/backends/vtx/vmcs_field.h"
#include "tdp/backends/vtx/vmx_asm.h"
#include "tdp/backends/vtx/vmx_instructions.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {
namespace {

constexpr uint32_t kMsrXss = 0xda0;
constexpr uint32_t kMsrStar = 0xc0000081;
constexpr uint32_t kMsrLstar = 0xc0000082;
constexpr uint32_t kMsrCstar = 0xc0000083;
constexpr uint32_t kMsrFmask = 0xc0000084;
constexpr uint32_t kMsrKernelGsBase = 0xc0000102;
constexpr uint32_t kMsrTscAux = 0xc0000103;
constexpr ByteCount kHostHalf = kPageSize / 2;

}  // namespace

void MsrAreas::Init(FrameArena& arena, Hpa page, bool tsc_aux, bool xss) {
  page_ = page;
  guest_ = arena.PointerTo<Entry>(page);
  host_ = arena.PointerTo<Entry>(page + kHostHalf);
  const auto add = [this](uint32_t msr) {
    guest_[size_].msr = host_[size_].msr = msr;
    ++size_;
  };
  for (const uint32_t msr : {kMsrStar, kMsrLstar, kMsrCstar, kMsrFmask, kMsrKernelGsBase}) add(msr);
  if (tsc_aux) add(kMsrTscAux);
  if (xss) add(kMsrXss);
}

void MsrAreas::ReadHost() {
  for (size_t i = 0; i < size_; ++i) host_[i].value = tdp_rdmsr(host_[i].msr);
}

absl::Status MsrAreas::WriteFields() const {
  const std::pair<VmcsField, uint64_t> fields[] = {
      {VmcsField::kExitMsrStoreAddress, page_.raw()},
      {VmcsField::kEntryMsrLoadAddress, page_.raw()},
      {VmcsField::kExitMsrLoadAddress, (page_ + kHostHalf).raw()},
      {VmcsField::kExitMsrStoreCount, size_},
      {VmcsField::kEntryMsrLoadCount, size_},
      {VmcsField::kExitMsrLoadCount, size_},
  };
  for (const auto& [field, value] : fields) TDP_RETURN_IF_ERROR(VmWrite(field, value));
  return absl::OkStatus();
}

uint64_t* MsrAreas::Guest(uint32_t msr) {
  for (size_t i = 0; i < size_; ++i) {
    if (guest_[i].msr == msr) return &guest_[i].value;
  }
  return nullptr;
}

}  // namespace tdp::vtx
