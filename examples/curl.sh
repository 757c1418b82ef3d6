# curl: the list of models, an answer, and a streamed answer as it comes over the wire.
# OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=sk-... sh curl.sh

set -eu

ask() {
  curl --silent --show-error --fail-with-body --no-buffer \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" "$@"
  echo
}

ask "$OPENAI_BASE_URL/models"
ask "$OPENAI_BASE_URL/chat/completions" \
  -d '{"model": "gpt-5.4", "messages": [{"role": "user", "content": "Name three rivers."}], "max_tokens": 40}'
ask "$OPENAI_BASE_URL/chat/completions" \
  -d '{"model": "gpt-5.4", "messages": [{"role": "user", "content": "Count to five."}], "max_tokens": 40, "stream": true}'
