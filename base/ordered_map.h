// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Maps in the order of their keys. std::map's balancing is code of libstdc++.a, which a
// freestanding core does not have: there a sorted array does its work.

#ifndef TDP_BASE_ORDERED_MAP_H_
#define TDP_BASE_ORDERED_MAP_H_

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#ifndef TDP_FREESTANDING
#include <map>
#endif

namespace tdp {

// Sorted arrays with the part of std::map's interface that the core uses. Lookups are as quick as a
// tree's, and so is an insertion behind all others; one in the middle moves what is above it. Any
// insertion or erasure may move every element.
namespace internal {

// Holds what the two maps below share.
template <typename K, typename V>
class SortedArray {
 public:
  using value_type = std::pair<K, V>;
  using iterator = typename std::vector<value_type>::iterator;
  using const_iterator = typename std::vector<value_type>::const_iterator;

  size_t size() const { return elements_.size(); }
  bool empty() const { return elements_.empty(); }
  void clear() { elements_.clear(); }
  iterator begin() { return elements_.begin(); }
  iterator end() { return elements_.end(); }
  const_iterator begin() const { return elements_.begin(); }
  const_iterator end() const { return elements_.end(); }

  iterator lower_bound(const K& key) {
    return std::lower_bound(begin(), end(), key,
                            [](const value_type& e, const K& k) { return e.first < k; });
  }
  iterator upper_bound(const K& key) {
    return std::upper_bound(begin(), end(), key,
                            [](const K& k, const value_type& e) { return k < e.first; });
  }
  std::pair<iterator, iterator> equal_range(const K& key) {
    return {lower_bound(key), upper_bound(key)};
  }
  iterator find(const K& key) {
    const iterator at = lower_bound(key);
    return at != end() && !(key < at->first) ? at : end();
  }
  iterator erase(iterator at) { return elements_.erase(at); }
  size_t erase(const K& key) {
    const auto [first, last] = equal_range(key);
    const auto count = static_cast<size_t>(last - first);
    elements_.erase(first, last);
    return count;
  }

 protected:
  iterator InsertAt(iterator at, const K& key, V value) {
    return elements_.insert(at, value_type(key, std::move(value)));
  }

 private:
  std::vector<value_type> elements_;
};

}  // namespace internal

template <typename K, typename V>
class SortedMap : public internal::SortedArray<K, V> {
 public:
  using typename internal::SortedArray<K, V>::iterator;

  std::pair<iterator, bool> emplace(const K& key, V value) {
    const iterator at = this->lower_bound(key);
    if (at != this->end() && !(key < at->first)) return {at, false};
    return {this->InsertAt(at, key, std::move(value)), true};
  }
  V& operator[](const K& key) {
    const iterator at = this->find(key);
    return at != this->end() ? at->second : emplace(key, V()).first->second;
  }
};

template <typename K, typename V>
class SortedMultimap : public internal::SortedArray<K, V> {
 public:
  typename internal::SortedArray<K, V>::iterator emplace(const K& key, V value) {
    return this->InsertAt(this->upper_bound(key), key, std::move(value));
  }
};

#ifdef TDP_FREESTANDING
template <typename K, typename V>
using OrderedMap = SortedMap<K, V>;
template <typename K, typename V>
using OrderedMultimap = SortedMultimap<K, V>;
#else
template <typename K, typename V>
using OrderedMap = std::map<K, V>;
template <typename K, typename V>
using OrderedMultimap = std::multimap<K, V>;
#endif

}  // namespace tdp

#endif  // TDP_BASE_ORDERED_MAP_H_
