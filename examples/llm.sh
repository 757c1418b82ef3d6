# llm, the command-line tool: a model of its own name that asks the gateway for gpt-5.4, streamed to the terminal.
# pip install llm; OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=sk-... sh llm.sh

set -eu

# llm reads extra-openai-models.yaml in its directory: here one for the gateway, so that your own stays as it is.
LLM_USER_PATH=${XDG_CONFIG_HOME:-$HOME/.config}/llm-penstock
export LLM_USER_PATH
mkdir -p "$LLM_USER_PATH"
cat > "$LLM_USER_PATH/extra-openai-models.yaml" <<YAML
- model_id: penstock
  model_name: gpt-5.4
  api_base: $OPENAI_BASE_URL
  api_key_name: penstock
YAML

llm --model penstock --key "$OPENAI_API_KEY" "Name three rivers."
llm --model penstock --key "$OPENAI_API_KEY" --continue --no-stream "And three lakes."
