// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/report/run_types.h"

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/report/report_parts.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::json;

constexpr size_t kQuotedBytes = 40;

bool HasType(const Json& value, std::string_view type) {
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  return type == value.type_name();
}

bool HasAnyType(const Json& value, const Json& types) {
  if (types.is_string()) return HasType(value, types.get<std::string>());
  for (const Json& type : types) {
    if (HasType(value, type.get<std::string>())) return true;
  }
  return false;
}

absl::Status CheckTypes(const Json& schema, const Json& value, const std::string& path) {
  if (schema.contains("type") && !HasAnyType(value, schema["type"])) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " is ", value.dump().substr(0, kQuotedBytes), ", not ", schema["type"].dump()));
  }
  if (value.is_array() && schema.contains("items")) {
    for (size_t i = 0; i < value.size(); ++i) {
      TDP_RETURN_IF_ERROR(CheckTypes(schema["items"], value[i], absl::StrCat(path, "[", i, "]")));
    }
  }
  if (!value.is_object()) return absl::OkStatus();
  const Json known = schema.value("properties", Json::object());
  const Json others = schema.value("additionalProperties", Json());
  for (const auto& [name, field] : value.items()) {
    const Json& rules = known.contains(name) ? known[name] : others;
    if (!rules.is_object()) continue;
    TDP_RETURN_IF_ERROR(
        CheckTypes(rules, field, absl::StrCat(path, path.empty() ? "" : ".", name)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRunTypes(const Json& run) {
  static const Json& schema = *new Json(Json::parse(kRunSchema));
  return CheckTypes(schema, run, "");
}

}  // namespace tdp::tools
