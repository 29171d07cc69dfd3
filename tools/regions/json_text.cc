// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/regions/json_text.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::json;

// Says to whoever made it how far the parser, which has a copy, has come.
class WatchedIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  WatchedIterator(const char* at, const char** reached) : at_(at), reached_(reached) {}
  reference operator*() const { return *at_; }
  WatchedIterator& operator++() {
    *reached_ = ++at_;
    return *this;
  }
  WatchedIterator operator++(int) {
    const WatchedIterator before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const WatchedIterator& a, const WatchedIterator& b) {
    return a.at_ == b.at_;
  }
  friend bool operator!=(const WatchedIterator& a, const WatchedIterator& b) { return !(a == b); }

 private:
  const char* at_;
  const char** reached_;
};

// "LINE:COLUMN: " of the last character before `at`.
std::string PlaceOf(std::string_view text, const char* at) {
  const auto before = text.substr(0, static_cast<size_t>(at - text.data()));
  const std::string_view upto = before.substr(0, before.empty() ? 0 : before.size() - 1);
  const size_t line_start = upto.rfind('\n') + 1;  // 0 if there is none
  return absl::StrCat(1 + std::count(upto.begin(), upto.end(), '\n'), ":",
                      1 + upto.size() - line_start, ": ");
}

// Stops at the first thing that is wrong, and keeps nothing.
class Checker : public nlohmann::json_sax<Json> {
 public:
  explicit Checker(std::string* wrong) : wrong_(wrong) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return Open(); }
  bool end_object() override { return Close(); }
  bool start_array(std::size_t) override { return Open(); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    if (names_.back().insert(name).second) return true;
    *wrong_ = absl::StrCat("field \"", name, "\": the object has it already");
    return false;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    *wrong_ = "not valid JSON";
    return false;
  }

 private:
  bool Open() {
    names_.emplace_back();
    if (names_.size() <= kMaxJsonDepth) return true;
    *wrong_ = absl::StrCat("more than ", kMaxJsonDepth, " objects and lists inside each other");
    return false;
  }
  bool Close() {
    names_.pop_back();
    return true;
  }

  std::string* wrong_;
  std::vector<std::set<std::string>> names_;  // of each object that is open
};

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view text) {
  const char* reached = text.data();
  std::string wrong;
  Checker checker(&wrong);
  const WatchedIterator begin(text.data(), &reached);
  const WatchedIterator end(text.data() + text.size(), &reached);
  if (!Json::sax_parse(begin, end, &checker, Json::input_format_t::json, /*strict=*/true,
                       /*ignore_comments=*/true)) {
    return absl::InvalidArgumentError(absl::StrCat(PlaceOf(text, reached), wrong));
  }
  return Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false,
                     /*ignore_comments=*/true);
}

}  // namespace tdp::tools
