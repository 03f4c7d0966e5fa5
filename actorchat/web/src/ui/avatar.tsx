import type { User } from "../sdk/types.ts"
import { colorOf, initialsOf } from "./people.ts"
import { View } from "./view.ts"

interface Properties {
  user: User
  small?: boolean
  online?: boolean
}

/** A picture from the chat's or the page's own server, or initials on a colour that depends on the name. The name beside it says the same to screen readers. */
export class Avatar extends View<Properties, { broken?: boolean }> {
  render() {
    const { user, small, online } = this.props
    // Another host would learn of every visitor who sees the picture.
    const picture = !this.state.broken && [this.context.server, location.origin].some(place => user.avatar.startsWith(`${place}/`))
    return (
      <span class={`av c${colorOf(user)}${small ? " s" : ""}`} aria-hidden="true">
        {picture ? <img src={user.avatar} alt="" onError={() => this.setState({ broken: true })} /> : initialsOf(user) || "•"}
        {online && <span class="dot" />}
      </span>
    )
  }
}
