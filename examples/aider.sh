# aider: pair programming in the terminal; the prefix openai/ means any server that speaks OpenAI's API.
# pip install aider-chat; OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=sk-... sh aider.sh [FILE...]

set -eu

# The key comes from OPENAI_API_KEY, but the address from a variable of another name. The weak model writes commit messages.
exec aider --model openai/gpt-5.4 --weak-model openai/gpt-5.4 --openai-api-base "$OPENAI_BASE_URL" \
  --no-show-model-warnings "$@"
