import { useContext, useState } from "preact/hooks"
import type { Room } from "../sdk/desk-types.ts"
import { clean } from "../ui/clean.ts"
import { format } from "../ui/formats.ts"
import { ConsoleContext } from "./context.ts"
import { Icon } from "./icons.tsx"
import { Face, line, shortTime } from "./people.tsx"
import { isAnonymous } from "./state.ts"

/** What is known about the visitor: the page, language and time, tags, and other chats. */
export function Card({ room, now }: { room: Room; now: number }) {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  const { uuid, chat } = room
  if (!chat) return null
  const user = chat.owner_user
  const name = ui.nameOf(user)
  const here = room.people.some(other => other.role === "user")
  const visitor = ui.visitors.get(uuid)
  const [page, ...pages] = visitor?.pages ?? []
  const others = ui.lists.of(user.id).filter(other => other.chat.uuid !== uuid)
  return (
    <aside class="card" aria-label={t("visitorCard")}>
      <button type="button" class="ib shut" aria-label={t("closeCard")} onClick={() => ui.toggleCard(false)}>
        <Icon name="back" />
      </button>
      <div class="id">
        <Face user={user} name={name} size="l" online={here} />
        <h2>
          <bdi>{name}</bdi>
        </h2>
        <p>{isAnonymous(user) ? t("anonymous") : t("customerId", { number: user.id })}</p>
        <p>{here ? t("present") : t("notPresent")}</p>
      </div>
      <section>
        <h3>{t(here ? "cardNow" : "cardLast")}</h3>
        <dl class="kv">
          <dt>{t("page")}</dt>
          <dd>{page ? <PageLink url={page.url} title={page.title} /> : t("unknownPage")}</dd>
          {page?.referrer && (
            <>
              <dt>{t("cameFrom")}</dt>
              <dd>{hostOf(page.referrer)}</dd>
            </>
          )}
          {visitor?.timezone && <LocalTime zone={visitor.timezone} now={now} />}
          {visitor?.language && (
            <>
              <dt>{t("language")}</dt>
              <dd>{languageName(t.lang, visitor.language)}</dd>
            </>
          )}
          {visitor?.address && (
            <>
              <dt>{t("address")}</dt>
              <dd class="num">{visitor.address}</dd>
            </>
          )}
          <dt>{t("source")}</dt>
          <dd>{chat.widget.source}</dd>
        </dl>
      </section>
      <Tags key={uuid} uuid={uuid} tags={desk.summary(uuid)?.tags ?? []} />
      {pages.length > 0 && (
        <section>
          <h3>{t("pages")}</h3>
          <ul>
            {pages.slice(0, 5).map(({ url, title, time }) => (
              <li class="past" key={time + url}>
                <p>
                  <PageLink url={url} title={title} />
                </p>
                <small class="num">{shortTime(t, time, now)}</small>
              </li>
            ))}
          </ul>
        </section>
      )}
      <section>
        <h3>{t("earlier")}</h3>
        {others.length === 0 && <p class="small">{t("noEarlier")}</p>}
        {others.slice(0, 8).map(({ chat: other, last, activity, closed }) => (
          <button type="button" class="past" key={other.uuid} onClick={() => ui.select(other.uuid)}>
            <p>{line(last?.text ?? "") || t("fileAlone")}</p>
            <small class="num">{shortTime(t, activity, now)}</small>
            <small>
              {other.status === "closed"
                ? closed?.user
                  ? t("cardClosedBy", { name: ui.personName(closed.user) })
                  : t("statusClosed")
                : other.operator_user
                  ? t("with", { name: ui.operatorName(other.operator_user) })
                  : t("statusNew")}
            </small>
          </button>
        ))}
      </section>
    </aside>
  )
}

function PageLink({ url, title }: { url: string; title: string }) {
  const text = clean(title) || clean(url)
  return /^https?:\/\//i.test(url) ? (
    <a href={url} target="_blank" rel="noopener noreferrer nofollow">
      {text}
    </a>
  ) : (
    <>{text}</>
  )
}

function LocalTime({ zone, now }: { zone: string; now: number }) {
  const { t } = useContext(ConsoleContext)
  let time: string
  try {
    time = format(t.lang, { hour: "numeric", minute: "2-digit", timeZone: zone }).format(now)
  } catch {
    // A zone that this browser doesn't know.
    return null
  }
  return (
    <>
      <dt>{t("localTime")}</dt>
      <dd class="num">
        {time}, {zone.split("/").at(-1)?.replace(/_/g, " ")}
      </dd>
    </>
  )
}

function languageName(lang: string, tag: string): string {
  try {
    return new Intl.DisplayNames([lang], { type: "language" }).of(tag) ?? tag
  } catch {
    return tag
  }
}

function hostOf(url: string): string {
  try {
    return new URL(url).host || clean(url)
  } catch {
    return clean(url)
  }
}

function Tags({ uuid, tags }: { uuid: string; tags: readonly string[] }) {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  const [isAdding, setAdding] = useState(false)
  const [text, setText] = useState("")
  const set = (next: string[]): Promise<boolean> => ui.act(() => desk.setTags(uuid, next))
  return (
    <section>
      <h3>
        {t("tags")}
        {!isAdding && (
          <button type="button" onClick={() => setAdding(true)}>
            {t("addTag")}
          </button>
        )}
      </h3>
      <div class="tags">
        {tags.map(tag => (
          <span class="tag" key={tag}>
            <bdi>{clean(tag)}</bdi>
            <button type="button" aria-label={t("removeTag", { name: clean(tag) })} onClick={() => void set(tags.filter(other => other !== tag))}>
              <Icon name="close" size={12} />
            </button>
          </span>
        ))}
      </div>
      {isAdding && (
        <form
          class="tagform"
          onSubmit={event => {
            event.preventDefault()
            const tag = text.trim()
            if (!tag) return setAdding(false)
            void set([...new Set([...tags, tag])]).then(done => {
              if (!done) return
              setText("")
              setAdding(false)
            })
          }}
        >
          <input
            aria-label={t("tagName")}
            maxLength={40}
            value={text}
            ref={element => {
              if (element && !text) element.focus()
            }}
            onInput={event => setText(event.currentTarget.value)}
            onKeyDown={event => {
              if (event.key !== "Escape") return
              event.stopPropagation()
              setAdding(false)
            }}
          />
        </form>
      )}
    </section>
  )
}
