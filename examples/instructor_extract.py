# instructor: objects out of text, by a tool call that is checked and, if it is wrong, asked for again.
# pip install instructor; OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=sk-... python instructor_extract.py

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field

client = instructor.from_openai(OpenAI())  # reads OPENAI_BASE_URL and OPENAI_API_KEY


class Person(BaseModel):
    name: str
    age: int = Field(ge=0, le=150)


person = client.chat.completions.create(
    model="gpt-5.4",
    response_model=Person,
    messages=[{"role": "user", "content": "Ada turned thirty-six last week."}],
    max_retries=2,
)
print("extracted:", repr(person))
