// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Rows as JSON: an array for each field is shorter than an object for each row, and what plots
// read.

#ifndef TDP_TOOLS_JSON_COLUMN_H_
#define TDP_TOOLS_JSON_COLUMN_H_

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

}  // namespace tdp::tools

#endif  // TDP_TOOLS_JSON_COLUMN_H_
