// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The bytes of examples/data/sqlite3_inserts.trc.zst.

#ifndef TDP_TOOLS_DATA_SQLITE3_INSERTS_H_
#define TDP_TOOLS_DATA_SQLITE3_INSERTS_H_

namespace tdp::tools {

extern const char kSqlite3Inserts[];
extern const unsigned long kSqlite3InsertsBytes;

}  // namespace tdp::tools

#endif  // TDP_TOOLS_DATA_SQLITE3_INSERTS_H_
