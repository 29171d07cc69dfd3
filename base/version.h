// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The version of the library, and the language that its headers are written in. What a change of
// each number allows is in docs/versioning.md.

#ifndef TDP_BASE_VERSION_H_
#define TDP_BASE_VERSION_H_

#if !defined(__cplusplus) || __cplusplus < 201709L
#error "libtdp needs C++20: compile with -std=c++20 or newer"
#endif

#define TDP_VERSION_MAJOR 0
#define TDP_VERSION_MINOR 2
#define TDP_VERSION_PATCH 0

// A number that grows with every release, for `#if TDP_VERSION >= TDP_MAKE_VERSION(0, 2, 0)`.
#define TDP_MAKE_VERSION(major, minor, patch) ((major)*1000000 + (minor)*1000 + (patch))
#define TDP_VERSION TDP_MAKE_VERSION(TDP_VERSION_MAJOR, TDP_VERSION_MINOR, TDP_VERSION_PATCH)

#endif  // TDP_BASE_VERSION_H_
