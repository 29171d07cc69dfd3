// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Rows as JSON: an array for each field is shorter than an object for each row, and what plots
// read. And JSON as text.

#ifndef TDP_TOOLS_JSON_COLUMN_H_
#define TDP_TOOLS_JSON_COLUMN_H_

#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace tdp::tools {

// `field` of each of `rows`, in their order.
template <typename Row, typename Field>
nlohmann::ordered_json Column(const std::vector<Row>& rows, Field Row::*field) {
  nlohmann::ordered_json column = nlohmann::ordered_json::array();
  for (const Row& row : rows) column.push_back(row.*field);
  return column;
}

// Returns `json` as text, on lines of their own with an `indent`. A name of a file may have any
// bytes; what is no UTF-8 of it becomes U+FFFD, since JSON can say nothing else.
inline std::string JsonText(const nlohmann::ordered_json& json, int indent = -1) {
  return json.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace tdp::tools

#endif  // TDP_TOOLS_JSON_COLUMN_H_
