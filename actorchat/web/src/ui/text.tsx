import { createRef } from "preact"
import { clean } from "./clean.ts"
import { linkify } from "./linkify.ts"
import { View } from "./view.ts"

/** Whether a text can have 30 lines: ten characters fit into any line. To ask for heights lays out the page, once for each message. */
function mayBeCut(text: string): boolean {
  return text.length / 10 + text.split("\n").length > 29
}

/** A message's text: only text and links, cut after 30 lines. */
export class Text extends View<{ text: string }, { all?: boolean; isCut?: boolean }> {
  #element = createRef<HTMLDivElement>()

  override componentDidMount(): void {
    const { text } = this.props
    const { scrollHeight = 0, clientHeight = 0 } = mayBeCut(text) ? (this.#element.current ?? {}) : {}
    const isCut = scrollHeight > clientHeight + 1
    if (isCut !== !!this.state.isCut) this.setState({ isCut })
  }

  override componentDidUpdate(before: { text: string }): void {
    if (before.text !== this.props.text) this.componentDidMount()
  }

  render() {
    const { all, isCut } = this.state
    return (
      <>
        <div class={`t${all ? "" : " cut"}`} dir="auto" ref={this.#element}>
          {linkify(clean(this.props.text)).map(part =>
            part.href ? (
              <a href={part.href} target="_blank" rel="noopener noreferrer nofollow ugc">
                {part.text}
              </a>
            ) : (
              part.text
            ),
          )}
        </div>
        {isCut && !all && (
          <button type="button" class="all" onClick={() => this.setState({ all: true })}>
            {this.context.t("showAll")}
          </button>
        )}
      </>
    )
  }
}
