// SPDX-License-Identifier: Apache-2.0
//
// The bytes of sqlite3_inserts.trc.zst.

#ifndef TDP_EXAMPLES_DATA_SQLITE3_INSERTS_H_
#define TDP_EXAMPLES_DATA_SQLITE3_INSERTS_H_

namespace tdp::examples {

extern const char kSqlite3Inserts[];
extern const unsigned long kSqlite3InsertsBytes;

}  // namespace tdp::examples

#endif  // TDP_EXAMPLES_DATA_SQLITE3_INSERTS_H_
