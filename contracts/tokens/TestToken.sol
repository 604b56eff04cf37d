// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title Money of a devnet
/// @notice Anybody can mint it, so it is worth nothing.
contract TestToken is ERC20 {
    constructor() ERC20("Tribute devnet token", "TRT") {}

    /// @notice Makes `amount` units for `to`.
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}
