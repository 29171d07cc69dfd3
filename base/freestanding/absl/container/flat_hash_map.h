// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding".

#ifndef TDP_BASE_FREESTANDING_ABSL_CONTAINER_FLAT_HASH_MAP_H_
#define TDP_BASE_FREESTANDING_ABSL_CONTAINER_FLAT_HASH_MAP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

namespace absl {
inline namespace tdp_stand_in {
namespace internal {

// Combines the parts of a type, as its `AbslHashValue(H, value)` asks.
class HashState {
 public:
  template <typename... Parts>
  static HashState combine(HashState state, const Parts&... parts) {
    (state.Add(parts), ...);
    return state;
  }
  uint64_t value() const { return value_; }

  template <typename T>
  void Add(const T& part) {
    if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
      Mix(static_cast<uint64_t>(part));
    } else if constexpr (std::is_pointer_v<T>) {
      Mix(reinterpret_cast<uint64_t>(part));
    } else {
      *this = AbslHashValue(*this, part);
    }
  }

 private:
  // The finalizer of splitmix64.
  void Mix(uint64_t word) {
    uint64_t z = (value_ ^ word) + 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    value_ = z ^ z >> 31;
  }

  uint64_t value_ = 0;
};

}  // namespace internal

// Linear probing in one array. Any insertion may move every element; an erasure moves none.
template <typename K, typename V>
class flat_hash_map {
 public:
  using value_type = std::pair<const K, V>;

  template <bool kConst>
  class Iterator {
    using Map = std::conditional_t<kConst, const flat_hash_map, flat_hash_map>;
    using Element = std::conditional_t<kConst, const value_type, value_type>;

   public:
    Iterator(Map* map, size_t at) : map_(map), at_(at) {}
    Element& operator*() const { return map_->At(at_); }
    Element* operator->() const { return &map_->At(at_); }
    Iterator& operator++() {
      at_ = map_->NextFull(at_ + 1);
      return *this;
    }
    friend bool operator==(const Iterator&, const Iterator&) = default;

   private:
    friend class flat_hash_map;
    Map* map_;
    size_t at_;
  };
  using iterator = Iterator<false>;
  using const_iterator = Iterator<true>;

  flat_hash_map() = default;
  flat_hash_map(const flat_hash_map&) = delete;
  flat_hash_map& operator=(const flat_hash_map&) = delete;
  ~flat_hash_map() { clear(); }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  iterator begin() { return {this, NextFull(0)}; }
  iterator end() { return {this, capacity_}; }
  const_iterator begin() const { return {this, NextFull(0)}; }
  const_iterator end() const { return {this, capacity_}; }

  iterator find(const K& key) { return {this, Find(key)}; }
  const_iterator find(const K& key) const { return {this, Find(key)}; }
  bool contains(const K& key) const { return Find(key) != capacity_; }

  V& at(const K& key) { return const_cast<V&>(std::as_const(*this).at(key)); }
  const V& at(const K& key) const {
    const size_t found = Find(key);
    if (found == capacity_) __builtin_trap();
    return At(found).second;
  }

  size_t capacity() const { return capacity_; }
  // Until there are more than `size` elements no insertion allocates.
  void reserve(size_t size) {
    while (size > size_ && !HasRoomFor(size - size_)) Grow();
  }

  template <typename... Args>
  std::pair<iterator, bool> try_emplace(const K& key, Args&&... args) {
    if (const size_t at = Find(key); at != capacity_) return {{this, at}, false};
    if (!HasRoomFor(1)) Grow();
    size_t at = Home(key);
    while (marks_[at] == kFull) at = (at + 1) & (capacity_ - 1);
    if (marks_[at] == kUnused) ++used_;
    ::new (static_cast<void*>(&cells_[at]))
        value_type(std::piecewise_construct, std::forward_as_tuple(key),
                   std::forward_as_tuple(std::forward<Args>(args)...));
    marks_[at] = kFull;
    ++size_;
    return {{this, at}, true};
  }
  template <typename... Args>
  std::pair<iterator, bool> emplace(const K& key, Args&&... args) {
    return try_emplace(key, std::forward<Args>(args)...);
  }
  V& operator[](const K& key) { return try_emplace(key).first->second; }

  size_t erase(const K& key) {
    const size_t at = Find(key);
    if (at == capacity_) return 0;
    Drop(at);
    return 1;
  }
  void erase(iterator it) { Drop(it.at_); }

  void clear() {
    for (size_t at = 0; at < capacity_; ++at) {
      if (marks_[at] == kFull) At(at).~value_type();
      marks_[at] = kUnused;
    }
    size_ = used_ = 0;
  }

 private:
  enum Mark : uint8_t { kUnused, kErased, kFull };
  struct alignas(value_type) Cell {
    unsigned char bytes[sizeof(value_type)];
  };

  value_type& At(size_t at) { return *reinterpret_cast<value_type*>(&cells_[at]); }
  const value_type& At(size_t at) const {
    return *reinterpret_cast<const value_type*>(&cells_[at]);
  }
  size_t NextFull(size_t at) const {
    while (at < capacity_ && marks_[at] != kFull) ++at;
    return at;
  }
  size_t Home(const K& key) const {
    internal::HashState state;
    state.Add(key);
    return state.value() & (capacity_ - 1);
  }
  size_t Find(const K& key) const {
    if (size_ == 0) return capacity_;
    for (size_t at = Home(key); marks_[at] != kUnused; at = (at + 1) & (capacity_ - 1)) {
      if (marks_[at] == kFull && At(at).first == key) return at;
    }
    return capacity_;
  }
  void Drop(size_t at) {
    At(at).~value_type();
    marks_[at] = kErased;
    --size_;
  }

  // At most three quarters of the cells are used, so that each search ends.
  bool HasRoomFor(size_t more) const { return 4 * (used_ + more) <= 3 * capacity_; }
  void Grow() {
    const size_t old_capacity = capacity_;
    std::unique_ptr<Cell[]> old_cells = std::move(cells_);
    std::unique_ptr<Mark[]> old_marks = std::move(marks_);
    capacity_ = size_ * 2 < old_capacity && old_capacity != 0 ? old_capacity
                : old_capacity == 0                           ? 16
                                                              : 2 * old_capacity;
    cells_ = std::make_unique<Cell[]>(capacity_);
    marks_ = std::make_unique<Mark[]>(capacity_);
    size_ = used_ = 0;
    for (size_t i = 0; i < old_capacity; ++i) {
      if (old_marks[i] != kFull) continue;
      auto& element = *reinterpret_cast<value_type*>(&old_cells[i]);
      try_emplace(element.first, std::move(element.second));
      element.~value_type();
    }
  }

  size_t size_ = 0;
  size_t used_ = 0;  // full or erased
  size_t capacity_ = 0;
  std::unique_ptr<Cell[]> cells_;
  std::unique_ptr<Mark[]> marks_;
};

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_CONTAINER_FLAT_HASH_MAP_H_
