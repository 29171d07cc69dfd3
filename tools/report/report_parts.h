// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The files that a report is made of and judged by, inside the program.

#ifndef TDP_TOOLS_REPORT_REPORT_PARTS_H_
#define TDP_TOOLS_REPORT_REPORT_PARTS_H_

namespace tdp::tools {

extern const char kReportHtml[];  // with @CSS@, @RUNS@, @PRICES@ and @SCRIPT@ where they belong
extern const char kReportCss[];
extern const char kReportScript[];  // all scripts, one after the other
extern const char kRunSchema[];     // docs/run.schema.json

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPORT_REPORT_PARTS_H_
