// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/regions/region_file.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/numeric/int128.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "tdp/base/address.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/regions/json_text.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::json;

absl::Status Bad(std::string_view path, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

// "4096", "0x1000", "128K", "4G", "2^64", or a number.
std::optional<absl::uint128> ParseNumber(const Json& value) {
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  if (!value.is_string()) return std::nullopt;
  const std::string text = value.get<std::string>();
  if (text == "2^64") return kWholeAddressSpace;
  uint64_t number;
  std::string_view digits = text;
  if (absl::ConsumePrefix(&digits, "0x")) {
    if (!absl::SimpleHexAtoi(digits, &number)) return std::nullopt;
    return number;
  }
  constexpr std::string_view kUnits = "KMGT";
  int shift = 0;
  if (!digits.empty()) {
    const size_t unit = kUnits.find(digits.back());
    if (unit != std::string_view::npos) {
      shift = 10 * (static_cast<int>(unit) + 1);
      digits.remove_suffix(1);
    }
  }
  if (!absl::SimpleAtoi(digits, &number)) return std::nullopt;
  return absl::uint128(number) << shift;
}

// The fields of one JSON object, each of which must be asked for.
class Fields {
 public:
  static absl::StatusOr<Fields> Of(const Json& object, std::string path) {
    if (!object.is_object()) return Bad(path, "not an object");
    return Fields(object, std::move(path));
  }

  const std::string& path() const { return path_; }

  const Json* Find(const std::string& name) {
    known_.push_back(name);
    const auto found = object_->find(name);
    return found == object_->end() ? nullptr : &*found;
  }

  absl::StatusOr<std::string> Text(const std::string& name, const std::string& otherwise = "") {
    const Json* const value = Find(name);
    if (value == nullptr) return otherwise;
    if (!value->is_string()) return BadValue(name, *value, "a text");
    return value->get<std::string>();
  }

  absl::StatusOr<bool> Flag(const std::string& name, bool otherwise) {
    const Json* const value = Find(name);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) return BadValue(name, *value, "true or false");
    return value->get<bool>();
  }

  absl::StatusOr<RegionSize> Size(const std::string& name) {
    const Json* const value = Find(name);
    if (value == nullptr) return Bad(path_, absl::StrCat(name, ": missing"));
    const std::optional<absl::uint128> size = ParseNumber(*value);
    if (!size.has_value()) return BadValue(name, *value, "a number of bytes");
    return *size;
  }

  absl::StatusOr<uint64_t> Address(const std::string& name, uint64_t otherwise) {
    const Json* const value = Find(name);
    if (value == nullptr) return otherwise;
    const std::optional<absl::uint128> address = ParseNumber(*value);
    if (!address.has_value() || *address >= kWholeAddressSpace) {
      return BadValue(name, *value, "an address");
    }
    return absl::Uint128Low64(*address);
  }

  absl::StatusOr<int> Priority(const std::string& name) {
    const Json* const value = Find(name);
    if (value == nullptr) return 0;
    const bool fits = value->is_number_integer() &&
                      value->get<int64_t>() >= std::numeric_limits<int>::min() &&
                      value->get<int64_t>() <= std::numeric_limits<int>::max();
    if (!fits) return BadValue(name, *value, "a whole number");
    return value->get<int>();
  }

  absl::StatusOr<std::vector<const Json*>> List(const std::string& name) {
    std::vector<const Json*> items;
    const Json* const value = Find(name);
    if (value == nullptr) return items;
    if (!value->is_array()) return BadValue(name, *value, "a list");
    for (const Json& item : *value) items.push_back(&item);
    return items;
  }

  absl::Status CheckNoOthers() const {
    for (const auto& [name, value] : object_->items()) {
      if (std::find(known_.begin(), known_.end(), name) == known_.end()) {
        return Bad(path_, absl::StrCat("unknown field \"", name, "\""));
      }
    }
    return absl::OkStatus();
  }

 private:
  Fields(const Json& object, std::string path) : object_(&object), path_(std::move(path)) {}

  absl::Status BadValue(const std::string& name, const Json& value, std::string_view want) const {
    return Bad(path_, absl::StrCat(name, " = ", value.dump(), ": not ", want));
  }

  const Json* object_;
  std::string path_;
  std::vector<std::string> known_;
};

constexpr std::pair<std::string_view, RegionKind> kKinds[] = {
    {"container", RegionKind::kContainer},
    {"ram", RegionKind::kRam},
    {"rom", RegionKind::kRom},
    {"rom-device", RegionKind::kRomDevice},
    {"mmio", RegionKind::kMmio},
    {"alias", RegionKind::kAlias},
    {"reservation", RegionKind::kReservation}};

absl::StatusOr<RegionKind> ParseKind(const std::string& path, const std::string& text) {
  for (const auto& [name, kind] : kKinds) {
    if (name == text) return kind;
  }
  return Bad(path, absl::StrCat("kind = \"", text,
                                "\": not container, ram, rom, rom-device, mmio, alias or "
                                "reservation"));
}

// Holds what the file says of a region, before targets of aliases are known.
struct Description {
  std::string path;
  RegionSpec spec;
  std::string alias_of;
  uint64_t offset = 0;
  int priority = 0;
  bool enabled = true;
  int depth = 1;
  std::string parent;  // empty: none
};

class Reader {
 public:
  absl::StatusOr<RegionMachine> Read(const Json& file) {
    machine_.tree = std::make_unique<RegionTree>();
    TDP_ASSIGN_OR_RETURN(Fields fields, Fields::Of(file, "file"));
    TDP_ASSIGN_OR_RETURN(const auto regions, fields.List("regions"));
    TDP_ASSIGN_OR_RETURN(const auto spaces, fields.List("address_spaces"));
    TDP_ASSIGN_OR_RETURN(const auto transactions, fields.List("transactions"));
    TDP_RETURN_IF_ERROR(fields.CheckNoOthers());
    for (const Json* region : regions) TDP_RETURN_IF_ERROR(Describe(*region, nullptr));
    std::vector<std::pair<std::string, std::string>> roots;
    for (const Json* space : spaces) {
      TDP_ASSIGN_OR_RETURN(auto root, DescribeSpace(*space));
      roots.push_back(std::move(root));
    }
    if (roots.empty()) return Bad("file", "address_spaces: none");
    constexpr size_t kMostSpaces = 2;
    if (roots.size() > kMostSpaces) {
      return Bad("file", absl::StrCat("address_spaces: ", roots.size(), ", but a machine has ",
                                      kMostSpaces, " at most"));
    }
    TDP_RETURN_IF_ERROR(CreateAll());
    TDP_RETURN_IF_ERROR(AttachAll());
    for (const auto& [name, root] : roots) {
      const auto found = by_name_.find(root);
      if (found == by_name_.end()) {
        return Bad(absl::StrCat("address space ", name),
                   absl::StrCat("root = \"", root, "\": no such region"));
      }
      machine_.address_spaces.push_back({name, found->second});
    }
    for (const Json* transaction : transactions) {
      TDP_RETURN_IF_ERROR(ReadTransaction(*transaction));
    }
    return std::move(machine_);
  }

 private:
  absl::StatusOr<std::pair<std::string, std::string>> DescribeSpace(const Json& json) {
    TDP_ASSIGN_OR_RETURN(Fields fields, Fields::Of(json, "address_spaces"));
    TDP_ASSIGN_OR_RETURN(const std::string name, fields.Text("name", "memory"));
    const Json* const root = fields.Find("root");
    if (root == nullptr) return Bad(absl::StrCat("address space ", name), "root: missing");
    TDP_RETURN_IF_ERROR(fields.CheckNoOthers());
    if (root->is_string()) return std::make_pair(name, root->get<std::string>());
    const size_t index = descriptions_.size();
    TDP_RETURN_IF_ERROR(Describe(*root, nullptr));
    return std::make_pair(name, descriptions_[index].spec.name);
  }

  // Adds the region and, after it, all below it.
  absl::Status Describe(const Json& json, const Description* parent) {
    const std::string above = parent == nullptr ? "" : parent->path;
    if (parent != nullptr && parent->depth >= kMaxRegionDepth) {
      return Bad(above, absl::StrCat("children: deeper than ", kMaxRegionDepth, " regions"));
    }
    TDP_ASSIGN_OR_RETURN(Fields nameless, Fields::Of(json, absl::StrCat(above, "/?")));
    TDP_ASSIGN_OR_RETURN(const std::string name, nameless.Text("name"));
    Description region;
    region.path = absl::StrCat(above, "/", name.empty() ? "?" : name);
    TDP_ASSIGN_OR_RETURN(Fields fields, Fields::Of(json, region.path));
    region.spec.name = name;
    fields.Find("name");
    TDP_ASSIGN_OR_RETURN(const std::string kind, fields.Text("kind", "container"));
    TDP_ASSIGN_OR_RETURN(region.spec.kind, ParseKind(region.path, kind));
    TDP_ASSIGN_OR_RETURN(region.spec.size, fields.Size("size"));
    TDP_ASSIGN_OR_RETURN(const uint64_t host, fields.Address("host", 0));
    region.spec.host = host != 0 ? Hva(host) : NextHost(region.spec.size);
    TDP_ASSIGN_OR_RETURN(region.alias_of, fields.Text("alias_of"));
    TDP_ASSIGN_OR_RETURN(region.spec.alias_offset, fields.Address("alias_offset", 0));
    TDP_ASSIGN_OR_RETURN(region.spec.read_only, fields.Flag("read_only", false));
    TDP_ASSIGN_OR_RETURN(region.spec.log_dirty, fields.Flag("log_dirty", false));
    TDP_ASSIGN_OR_RETURN(region.offset, fields.Address("offset", 0));
    TDP_ASSIGN_OR_RETURN(region.priority, fields.Priority("priority"));
    TDP_ASSIGN_OR_RETURN(region.enabled, fields.Flag("enabled", true));
    TDP_ASSIGN_OR_RETURN(const auto children, fields.List("children"));
    TDP_RETURN_IF_ERROR(fields.CheckNoOthers());
    if (parent != nullptr) {
      region.parent = parent->spec.name;
      region.depth = parent->depth + 1;
    }
    descriptions_.push_back(region);
    for (const Json* child : children) TDP_RETURN_IF_ERROR(Describe(*child, &region));
    return absl::OkStatus();
  }

  // Host memory for regions that name none: apart, each at a whole GiB.
  Hva NextHost(RegionSize size) {
    const Hva host = next_host_;
    if (size <= TiB(8)) {
      next_host_ = next_host_ + (absl::Uint128Low64(size) + GiB(1) - 1) / GiB(1) * GiB(1);
    }
    return host;
  }

  // Aliases come after what they show; several rounds, since they may show aliases.
  absl::Status CreateAll() {
    for (const Description& region : descriptions_) {
      if (++named_[region.spec.name] == 2) {
        return Bad(region.path, "another region has this name");
      }
    }
    std::vector<const Description*> waiting;
    for (const Description& region : descriptions_) waiting.push_back(&region);
    while (!waiting.empty()) {
      std::vector<const Description*> later;
      for (const Description* region : waiting) {
        if (!region->alias_of.empty() && !by_name_.contains(region->alias_of)) {
          later.push_back(region);
          continue;
        }
        TDP_RETURN_IF_ERROR(Create(*region));
      }
      if (later.size() == waiting.size()) {
        return Bad(later[0]->path, absl::StrCat("alias_of = \"", later[0]->alias_of,
                                                "\": no such region, or a circle"));
      }
      waiting = std::move(later);
    }
    return absl::OkStatus();
  }

  absl::Status Create(const Description& region) {
    RegionSpec spec = region.spec;
    if (!region.alias_of.empty()) spec.alias_of = by_name_[region.alias_of];
    const absl::StatusOr<Region*> created = machine_.tree->Create(std::move(spec));
    if (!created.ok()) return WithPath(region, created.status());
    by_name_[region.spec.name] = *created;
    return machine_.tree->SetEnabled(*created, region.enabled);
  }

  absl::Status AttachAll() {
    for (const Description& region : descriptions_) {
      if (region.parent.empty()) continue;
      const absl::Status attached = machine_.tree->Attach(
          by_name_[region.parent], by_name_[region.spec.name], region.offset, region.priority);
      if (!attached.ok()) return WithPath(region, attached);
    }
    return absl::OkStatus();
  }

  // The tree knows a region that it refuses by its name alone.
  static absl::Status WithPath(const Description& region, const absl::Status& status) {
    std::string_view what = status.message();
    absl::ConsumePrefix(&what, absl::StrCat("/", region.spec.name, ": "));
    return Bad(region.path, what);
  }

  absl::Status ReadTransaction(const Json& json) {
    TDP_ASSIGN_OR_RETURN(Fields fields, Fields::Of(json, "transactions"));
    RegionMachine::Transaction transaction;
    TDP_ASSIGN_OR_RETURN(transaction.name, fields.Text("name", "transaction"));
    TDP_ASSIGN_OR_RETURN(const auto changes, fields.List("changes"));
    TDP_RETURN_IF_ERROR(fields.CheckNoOthers());
    for (const Json* change : changes) {
      TDP_RETURN_IF_ERROR(ReadChange(*change, &transaction));
    }
    machine_.transactions.push_back(std::move(transaction));
    return absl::OkStatus();
  }

  absl::Status ReadChange(const Json& json, RegionMachine::Transaction* transaction) {
    const std::string path = absl::StrCat("transaction \"", transaction->name, "\"");
    TDP_ASSIGN_OR_RETURN(Fields fields, Fields::Of(json, path));
    TDP_ASSIGN_OR_RETURN(const std::string name, fields.Text("region"));
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      return Bad(path, absl::StrCat("region = \"", name, "\": no such region"));
    }
    Region* const region = found->second;
    auto& changes = transaction->changes;
    if (fields.Find("enabled") != nullptr) {
      TDP_ASSIGN_OR_RETURN(const bool enabled, fields.Flag("enabled", true));
      changes.push_back([=](RegionTree& tree) { return tree.SetEnabled(region, enabled); });
    }
    if (fields.Find("read_only") != nullptr) {
      TDP_ASSIGN_OR_RETURN(const bool read_only, fields.Flag("read_only", true));
      changes.push_back([=](RegionTree& tree) { return tree.SetReadOnly(region, read_only); });
    }
    if (fields.Find("log_dirty") != nullptr) {
      TDP_ASSIGN_OR_RETURN(const bool log_dirty, fields.Flag("log_dirty", true));
      changes.push_back([=](RegionTree& tree) { return tree.SetLogDirty(region, log_dirty); });
    }
    if (fields.Find("rom_mode") != nullptr) {
      TDP_ASSIGN_OR_RETURN(const bool rom_mode, fields.Flag("rom_mode", true));
      changes.push_back([=](RegionTree& tree) { return tree.SetRomMode(region, rom_mode); });
    }
    if (fields.Find("offset") != nullptr) {
      TDP_ASSIGN_OR_RETURN(const uint64_t offset, fields.Address("offset", 0));
      changes.push_back([=](RegionTree& tree) { return tree.SetOffset(region, offset); });
    }
    if (fields.Find("alias_offset") != nullptr) {
      TDP_ASSIGN_OR_RETURN(const uint64_t offset, fields.Address("alias_offset", 0));
      changes.push_back([=](RegionTree& tree) { return tree.SetAliasOffset(region, offset); });
    }
    if (fields.Find("size") != nullptr) {
      TDP_ASSIGN_OR_RETURN(const RegionSize size, fields.Size("size"));
      changes.push_back([=](RegionTree& tree) { return tree.SetSize(region, size); });
    }
    if (fields.Find("priority") != nullptr) {
      TDP_ASSIGN_OR_RETURN(const int priority, fields.Priority("priority"));
      changes.push_back([=](RegionTree& tree) { return tree.SetPriority(region, priority); });
    }
    return fields.CheckNoOthers();
  }

  RegionMachine machine_;
  std::vector<Description> descriptions_;
  std::map<std::string, Region*> by_name_;
  std::map<std::string, int> named_;
  Hva next_host_{0x100000000000};
};

}  // namespace

absl::StatusOr<RegionMachine> ParseRegionFile(std::string_view text) {
  TDP_ASSIGN_OR_RETURN(const Json file, ParseJson(text));
  return Reader().Read(file);
}

}  // namespace tdp::tools
