// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/weak_memory.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>

namespace tdp::explore {
namespace {

bool Acquires(std::memory_order order) {
  return order == std::memory_order_acquire || order == std::memory_order_consume ||
         order == std::memory_order_acq_rel || order == std::memory_order_seq_cst;
}
bool Releases(std::memory_order order) {
  return order == std::memory_order_release || order == std::memory_order_acq_rel ||
         order == std::memory_order_seq_cst;
}

}  // namespace

void WeakMemory::Clear() {
  places_.clear();
  locks_.clear();
  for (View& view : views_) view.clear();
  sequential_.clear();
  next_place_ = 0;
  next_number_ = 1;
}

void WeakMemory::Raise(View& view, uint32_t place, uint32_t number) {
  if (place >= view.size()) view.resize(place + 1, 0);
  view[place] = std::max(view[place], number);
}

void WeakMemory::Join(View& view, const View& other) {
  if (view.size() < other.size()) view.resize(other.size(), 0);
  for (size_t i = 0; i < other.size(); ++i) view[i] = std::max(view[i], other[i]);
}

WeakMemory::History& WeakMemory::Of(const void* where, uint64_t value) {
  History& history = places_[where];
  if (history.messages.empty()) history.place = next_place_++;
  if (history.messages.empty() || history.messages.back().value != value) {
    history.messages.clear();
    Append(history, value, {});
  }
  return history;
}

void WeakMemory::Append(History& history, uint64_t value, View view) {
  if (history.messages.size() == kMessages) history.messages.erase(history.messages.begin());
  history.messages.push_back({value, next_number_++, std::move(view)});
}

int WeakMemory::Choices(int thread, const void* where, uint64_t newest, std::memory_order order) {
  const auto found = places_.find(where);
  if (found == places_.end()) return 1;  // nobody has stored there
  const History& history = Of(where, newest);
  View& view = views_[thread];
  if (order == std::memory_order_seq_cst) Join(view, sequential_);
  const uint32_t oldest = At(view, history.place);
  int choices = 1;
  for (size_t i = history.messages.size() - 1; i > 0 && history.messages[i].number > oldest; --i) {
    ++choices;
  }
  return choices;
}

uint64_t WeakMemory::Load(int thread, const void* where, uint64_t newest, std::memory_order order,
                          int age) {
  if (!places_.contains(where)) return newest;
  const History& history = Of(where, newest);
  const Message& seen = history.messages[history.messages.size() - 1 - static_cast<size_t>(age)];
  View& view = views_[thread];
  Raise(view, history.place, seen.number);
  if (Acquires(order)) Join(view, seen.view);
  if (order == std::memory_order_seq_cst) Join(sequential_, view);
  return seen.value;
}

void WeakMemory::Store(int thread, const void* where, uint64_t before, uint64_t after,
                       std::memory_order order) {
  History& history = Of(where, before);
  View& view = views_[thread];
  if (order == std::memory_order_seq_cst) Join(view, sequential_);
  Append(history, after, {});
  Raise(view, history.place, history.messages.back().number);
  if (Releases(order)) history.messages.back().view = view;
  if (order == std::memory_order_seq_cst) Join(sequential_, view);
}

void WeakMemory::Update(int thread, const void* where, uint64_t before, uint64_t after,
                        std::memory_order order) {
  History& history = Of(where, before);
  View& view = views_[thread];
  if (order == std::memory_order_seq_cst) Join(view, sequential_);
  // It continues the release sequence of the store that it reads.
  View carried = history.messages.back().view;
  if (Acquires(order)) Join(view, carried);
  Append(history, after, {});
  Raise(view, history.place, history.messages.back().number);
  if (Releases(order)) Join(carried, view);
  history.messages.back().view = std::move(carried);
  if (order == std::memory_order_seq_cst) Join(sequential_, view);
}

void WeakMemory::Acquire(int thread, const void* where) { Join(views_[thread], locks_[where]); }

void WeakMemory::Release(int thread, const void* where) { Join(locks_[where], views_[thread]); }

void WeakMemory::SeeAll(int thread) {
  for (const View& view : views_) Join(views_[thread], view);
}

}  // namespace tdp::explore
