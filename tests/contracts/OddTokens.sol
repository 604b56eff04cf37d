// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

import {IMarketplace} from "contracts/IMarketplace.sol";

abstract contract Mintable is ERC20 {
    constructor() ERC20("Odd", "ODD") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

/// @dev Keeps a hundredth of what is transferred.
contract FeeToken is Mintable {
    function _update(address from, address to, uint256 amount) internal override {
        uint256 fee = from == address(0) ? 0 : amount / 100;
        super._update(from, to, amount - fee);
        if (fee != 0) super._update(from, address(0xFEE), fee);
    }
}

/// @dev Returns nothing, as USDT does.
contract SilentToken is Mintable {
    function transfer(address to, uint256 amount) public override returns (bool) {
        super.transfer(to, amount);
        assembly {
            return(0, 0)
        }
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        super.transferFrom(from, to, amount);
        assembly {
            return(0, 0)
        }
    }
}

/// @dev Says no by returning false.
contract FalseToken is Mintable {
    bool public refuses;

    function set(bool refuses_) external {
        refuses = refuses_;
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        return refuses ? false : super.transfer(to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        return refuses ? false : super.transferFrom(from, to, amount);
    }
}

/// @dev Refuses to pay some.
contract BlockingToken is Mintable {
    error Blocked(address who);

    mapping(address => bool) public blocked;

    function set(address who, bool blocked_) external {
        blocked[who] = blocked_;
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (blocked[to]) revert Blocked(to);
        super._update(from, to, amount);
    }
}

/// @dev Calls back into the marketplace while it moves money, as the account it was told to be.
contract CallingToken is Mintable {
    IMarketplace private _market;
    bytes private _call;
    bool public succeeded;
    bytes public answer;

    function set(IMarketplace market, bytes calldata call_) external {
        (_market, _call) = (market, call_);
    }

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (_call.length == 0 || from == address(0)) return;
        bytes memory call_ = _call;
        delete _call;
        (succeeded, answer) = address(_market).call(call_);
    }
}
