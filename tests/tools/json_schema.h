// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Holds JSON against a JSON Schema of the keywords that docs/run.schema.json uses. A keyword that
// is not known here is an error, lest a rule of the schema goes unchecked.

#ifndef TDP_TESTS_TOOLS_JSON_SCHEMA_H_
#define TDP_TESTS_TOOLS_JSON_SCHEMA_H_

#include <algorithm>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace tdp::tools {

class JsonSchema {
 public:
  using Json = nlohmann::json;

  explicit JsonSchema(Json schema) : schema_(std::move(schema)) {}

  // Returns a line for each place where `value` breaks the schema.
  std::vector<std::string> Errors(const Json& value) const {
    std::vector<std::string> errors;
    Check(schema_, value, "", errors);
    return errors;
  }

 private:
  static bool HasType(const Json& value, const std::string& type) {
    if (type == "object") return value.is_object();
    if (type == "array") return value.is_array();
    if (type == "string") return value.is_string();
    if (type == "null") return value.is_null();
    if (type == "number") return value.is_number();
    if (type == "boolean") return value.is_boolean();
    if (type == "integer") return value.is_number_integer();
    return false;
  }

  static bool HasAnyType(const Json& value, const Json& types) {
    if (types.is_string()) return HasType(value, types.get<std::string>());
    for (const Json& type : types) {
      if (HasType(value, type.get<std::string>())) return true;
    }
    return false;
  }

  void Check(const Json& schema, const Json& value, const std::string& path,
             std::vector<std::string>& errors) const {
    for (const auto& [keyword, rule] : schema.items()) {
      if (!Holds(keyword, rule, schema, value, path, errors)) {
        errors.push_back(absl::StrCat(path, ": ", keyword, " ", rule.dump(), " does not allow ",
                                      value.dump().substr(0, 60)));
      }
    }
  }

  // Returns whether `value` itself satisfies one rule; values inside it add their own errors.
  bool Holds(const std::string& keyword, const Json& rule, const Json& schema, const Json& value,
             const std::string& path, std::vector<std::string>& errors) const {
    if (keyword == "$schema" || keyword == "title" || keyword == "description") return true;
    if (keyword == "type") return HasAnyType(value, rule);
    if (keyword == "const") return value == rule;
    if (keyword == "enum") return std::find(rule.begin(), rule.end(), value) != rule.end();
    if (keyword == "minimum") return !value.is_number() || value >= rule;
    if (keyword == "pattern") {
      return std::regex_search(value.get<std::string>(), std::regex(rule.get<std::string>()));
    }
    if (keyword == "minItems") return value.size() >= rule.get<size_t>();
    if (keyword == "maxItems") return value.size() <= rule.get<size_t>();
    if (keyword == "items") {
      for (size_t i = 0; i < value.size(); ++i) {
        Check(rule, value[i], absl::StrCat(path, "[", i, "]"), errors);
      }
      return true;
    }
    // These say something of objects alone.
    if (keyword == "required" && !value.is_object()) return true;
    if (keyword == "properties" && !value.is_object()) return true;
    if (keyword == "additionalProperties" && !value.is_object()) return true;
    if (keyword == "required") {
      for (const Json& name : rule) {
        if (!value.contains(name.get<std::string>())) {
          errors.push_back(absl::StrCat(path, ": has no ", name.dump()));
        }
      }
      return true;
    }
    if (keyword == "properties") {
      for (const auto& [name, field] : rule.items()) {
        if (value.contains(name)) Check(field, value[name], absl::StrCat(path, ".", name), errors);
      }
      return true;
    }
    if (keyword == "additionalProperties") {
      CheckOthers(rule, schema, value, path, errors);
      return true;
    }
    return false;
  }

  void CheckOthers(const Json& rule, const Json& schema, const Json& value, const std::string& path,
                   std::vector<std::string>& errors) const {
    for (const auto& [name, field] : value.items()) {
      if (schema.contains("properties") && schema["properties"].contains(name)) continue;
      const std::string place = absl::StrCat(path, ".", name);
      if (rule.is_object()) {
        Check(rule, field, place, errors);
      } else if (rule == false) {
        errors.push_back(absl::StrCat(place, ": the schema has no such field"));
      }
    }
  }

  Json schema_;
};

}  // namespace tdp::tools

#endif  // TDP_TESTS_TOOLS_JSON_SCHEMA_H_
