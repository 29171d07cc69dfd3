# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# ./run docs: the pictures of the pages, and the reference of what an embedder sees as a site.
# Sourced after lib.sh and setup.sh.

draw_pictures() {
  local picture
  for picture in docs/pictures/*.dot; do
    dot -Tsvg "$picture" -o "${picture%.dot}.svg" || die "could not draw $picture"
  done
}

# docs [FOLDER]: a warning of Doxygen's is an error.
docs() {
  local folder=${1:-docs-site} include status=0
  [[ $# -le 1 ]] || die "unknown option '$2'" "use './run docs' or './run docs FOLDER'"
  require "${DOCS_PACKAGES[@]}"
  draw_pictures
  mkdir -p "$folder" || die "could not make the folder $folder"
  # Headers are shown by the names that an embedder includes.
  include=$(mktemp -d)
  ln -s "$PWD" "$include/tdp"
  TDP_DOCS_FOLDER=$folder TDP_INCLUDE=$include doxygen docs/api/Doxyfile || status=$?
  rm -r "$include"
  [[ $status == 0 ]] || die "the headers' comments have the mistakes above"
  say "open $folder/index.html in a browser"
}
