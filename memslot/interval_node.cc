// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/interval_node.h"

#include <memory>
#include <new>
#include <utility>

#include "tdp/base/check.h"

namespace tdp::internal {

bool IntervalNodePool::Reserve(int count) {
  while (free_.size() < static_cast<size_t>(count)) {
    if (!AddSlab()) return false;
  }
  return true;
}

bool IntervalNodePool::AddSlab() {
  std::unique_ptr<Slab> slab(new (std::nothrow) Slab());
  if (slab == nullptr) return false;
  free_.reserve(nodes() + kNodesPerSlab);
  for (IntervalNode& node : *slab) free_.push_back(&node);
  slabs_.push_back(std::move(slab));
  return true;
}

IntervalNode* IntervalNodePool::Take() {
  TDP_CHECK(!free_.empty());
  IntervalNode* node = free_.back();
  free_.pop_back();
  return node;
}

}  // namespace tdp::internal
