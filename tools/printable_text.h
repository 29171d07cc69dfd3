// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Names that others chose, for a terminal and in one line.

#ifndef TDP_TOOLS_PRINTABLE_TEXT_H_
#define TDP_TOOLS_PRINTABLE_TEXT_H_

#include <string>
#include <string_view>

namespace tdp::tools {

// `text` on one line, without anything that a terminal takes for a command: control characters are
// shown as \xNN.
std::string Printable(std::string_view text);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_PRINTABLE_TEXT_H_
