import { Api } from "./api.ts"
import type { ChatPage, OperatorProfile, SavedReply, VisitorInfo, WidgetConfig, WidgetInfo } from "./desk-types.ts"
import type { ChatRecord, Message, User } from "./types.ts"

/** The calls that only operators make. All reject with an ApiError. */
export class DeskApi extends Api {
  profile(token: string): Promise<OperatorProfile> {
    return this.call("GET", "/api/operators/me", token)
  }

  setAway(away: boolean, token: string): Promise<OperatorProfile> {
    return this.call("POST", "/api/operators/me/away", token, { away })
  }

  summaries(query: Record<string, string | number | undefined>, token: string): Promise<ChatPage> {
    return this.call("GET", `/api/chats?view=summary${parameters(query)}`, token)
  }

  transfer(chat: string, operator: number, token: string): Promise<ChatRecord> {
    return this.call("POST", `/api/chats/${chat}/transfer`, token, { operator_id: operator })
  }

  note(chat: string, note: { text: string; attachments: string[]; client_id: string }, token: string): Promise<Message> {
    return this.call("POST", `/api/chats/${chat}/messages`, token, { ...note, type: "system", type_role: "operator" })
  }

  async setTags(chat: string, tags: string[], token: string): Promise<string[]> {
    const answer = await this.call<{ tags: string[] }>("PUT", `/api/chats/${chat}/tags`, token, { tags })
    return answer.tags
  }

  visitor(chat: string, token: string): Promise<VisitorInfo> {
    return this.call("GET", `/api/chats/${chat}/visitor`, token)
  }

  searchMessages(q: string, token: string): Promise<Message[]> {
    return this.call("GET", `/api/search?limit=30${parameters({ q })}`, token)
  }

  searchPeople(q: string, token: string): Promise<User[]> {
    return this.call("GET", `/api/search?kind=people&limit=10${parameters({ q })}`, token)
  }

  replies(token: string): Promise<SavedReply[]> {
    return this.call("GET", "/api/replies", token)
  }

  saveReply({ id, ...reply }: Omit<SavedReply, "id"> & { id?: string }, token: string): Promise<SavedReply> {
    const { source, ...fields } = reply
    return id
      ? this.call("PATCH", `/api/replies/${id}`, token, fields)
      : this.call("POST", "/api/replies", token, { ...fields, ...(source !== null && { source }) })
  }

  async deleteReply(id: string, token: string): Promise<void> {
    await this.call("DELETE", `/api/replies/${id}`, token)
  }

  widget(source: string, token: string): Promise<WidgetInfo> {
    return this.call("GET", `/api/sources/${source}/widget`, token)
  }

  setWidget(source: string, config: WidgetConfig, token: string): Promise<WidgetInfo> {
    return this.call("PUT", `/api/sources/${source}/widget`, token, config)
  }
}

function parameters(query: Record<string, string | number | undefined>): string {
  return Object.entries(query)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `&${name}=${encodeURIComponent(value as string | number)}`)
    .join("")
}
